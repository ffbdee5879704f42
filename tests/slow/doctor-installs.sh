#!/bin/sh
# Thirteen real installations made with pip, six sound and seven broken in known ways, and what the doctor says
# of them: tests/slow/doctor-installs.sh NIBBLE FOLDER. TAP. Not a part of `make check`: it downloads 7 GB and
# takes 23 GB in FOLDER, which it leaves there, so that a second run only looks. Needs python3.11 with venv, and jq.
#
# Each is looked at as a user would: nibble doctor --python FOLDER. The sound ones are imported, too, so that
# "sound" means that Python says so.
set -eu
nibble=$1
folder=$2
python=${PYTHON:-python3.11}
mkdir -p "$folder"

install() { # name, then what pip installs
    name=$1
    shift
    [ -e "$folder/$name/made" ] && return
    rm -rf "${folder:?}/$name"
    "$python" -m venv "$folder/$name"
    "$folder/$name/bin/pip" install -q --disable-pip-version-check "$@" >&2
    touch "$folder/$name/made"
}
copy() { # from, to: its files are links until something replaces them
    [ -e "$folder/$2/made" ] && return 1
    rm -rf "${folder:?}/$2"
    cp -al "$folder/$1" "$folder/$2"
    rm "$folder/$2/made"
    sed -i "s|$folder/$1|$folder/$2|g" "$folder/$2/bin/pip" "$folder/$2/pyvenv.cfg"
}
packages() { echo "$folder"/"$1"/lib/python3.*/site-packages; }

number=0
look() { # name, further options
    name=$1
    shift
    "$nibble" doctor --python "$folder/$name" --json "$@" >"$folder/$name.json" || true
}
result() { # condition in jq, name
    number=$((number + 1))
    if jq -es ".[0] | $1" "$folder/$name.json" >/dev/null; then
        echo "ok $number - $2"
    else
        echo "not ok $number - $2"
        jq -r '.findings[] | select(.severity == "error" or .severity == "warning") | "# " + .severity + " " + .code + ": " + .title' "$folder/$name.json"
    fi
}
sound() { # name, modules that must import, then options
    name=$1
    modules=$2
    shift 2
    look "$name" "$@"
    result .fit "$name: no finding of severity error"
    number=$((number + 1))
    if "$folder/$name/bin/python" -c "import $modules" >/dev/null 2>"$folder/$name.err"; then
        echo "ok $number - $name: Python imports $modules"
    else
        echo "not ok $number - $name: Python imports $modules"
        tail -1 "$folder/$name.err" | sed 's/^/# /'
    fi
}
broken() { # name, code of the first finding, text of its title, then options
    name=$1
    code=$2
    text=$3
    shift 3
    look "$name" "$@"
    result "(.fit | not) and .findings[0].code == \"$code\" and (.findings[0].title | contains(\"$text\"))" \
        "$name: $code is named first"
}

echo 1..19
install sound-old torch==2.3.1 bitsandbytes==0.42.0 transformers==4.44.2 "numpy<2" scipy
sound sound-old torch,transformers,bitsandbytes --gpu "RTX 4090" --driver 12.4
install sound-new torch==2.8.0 bitsandbytes==0.48.1 transformers==4.57.1 accelerate
sound sound-new torch,transformers,bitsandbytes --gpu "RTX 5090" --driver 12.8
install sound-web fastapi "uvicorn[standard]" httpx pydantic sqlalchemy redis boto3 pillow
sound sound-web fastapi,uvicorn,httpx,pydantic,sqlalchemy,redis,boto3,PIL
install sound-data numpy pandas scipy scikit-learn matplotlib pyarrow opencv-python-headless jupyterlab
sound sound-data numpy,pandas,scipy,sklearn,matplotlib,pyarrow,cv2,jupyterlab
install sound-docs sentence-transformers datasets jsonschema outlines-core torch==2.8.0 torchvision
sound sound-docs sentence_transformers,datasets,jsonschema,outlines_core,torchvision --gpu H100 --driver 12.8

install sound-tensorflow tensorflow==2.21.0
sound sound-tensorflow tensorflow

# A torch that another version lies over: as when a layer of an image, or pip --target, brings some of its files.
if copy sound-new broken-mixed; then
    old=$(packages sound-old) new=$(packages broken-mixed)
    for f in torch/_inductor/kernel/unpack_mixed_mm.py torch/_inductor/kernel/__init__.py; do
        rm -f "$new/$f"
        cp "$old/$f" "$new/$f"
    done
    touch "$folder/broken-mixed/made"
fi
broken broken-mixed mixed-installation "torch 2.8.0 is mixed" --gpu "RTX 5090" --driver 12.8
# A CUDA library that is not there.
if copy sound-old broken-library; then
    "$folder/broken-library/bin/pip" uninstall -q -y nvidia-cublas-cu12 >&2
    touch "$folder/broken-library/made"
fi
broken broken-library requirement-missing nvidia-cublas-cu12 --gpu "RTX 4090" --driver 12.4
# A requirement that is violated.
if copy sound-old broken-requirement; then
    "$folder/broken-requirement/bin/pip" install -q --no-deps tokenizers==0.21.0 >&2
    touch "$folder/broken-requirement/made"
fi
broken broken-requirement requirement-violated "tokenizers" --gpu "RTX 4090" --driver 12.4
# A name that was removed: every requirement holds, and the import fails.
install broken-symbol sentence-transformers==2.2.2 transformers==4.44.2 huggingface_hub==0.36.0 torch==2.3.1 "numpy<2"
broken broken-symbol import-unsatisfied cached_download --gpu "RTX 4090" --driver 12.4
# Extension modules that were compiled for NumPy 1: every requirement holds here, too.
install broken-numpy pandas==1.5.3 "numpy<2"
[ -e "$folder/broken-numpy/two" ] || "$folder/broken-numpy/bin/pip" install -q --no-deps numpy==2.0.2 >&2
touch "$folder/broken-numpy/two"
broken broken-numpy numpy-abi "pandas 1.5.3 was compiled for NumPy 1, but NumPy 2.0.2"
# A package that is deleted in part.
if copy sound-data broken-gone; then
    rm -r "$(packages broken-gone)/pandas/core"
    touch "$folder/broken-gone/made"
fi
broken broken-gone missing-file pandas
# A GPU for which there is no code.
[ -e "$folder/broken-gpu" ] || ln -s sound-old "$folder/broken-gpu"
broken broken-gpu gpu-without-code "RTX 5090" --gpu "RTX 5090" --driver 12.8

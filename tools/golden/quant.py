#!/usr/bin/env python3
"""Writes tests/golden/quant/: what bitsandbytes makes of small inputs.

    python3 tools/golden/quant.py cpu      # cpu.bin: inputs, and what bitsandbytes' CPU code answers
    python3 tools/golden/quant.py cuda     # cuda.bin: what its CUDA kernels answer to those inputs

cpu first; cuda reads its inputs from cpu.bin and needs a GPU. README.md beside this file describes
the container and the arrays.
"""

import json
import os
import struct
import sys

os.environ["TORCHDYNAMO_DISABLE"] = "1"  # bitsandbytes compiles its fallbacks; run them as written

import numpy as np
import torch

import bitsandbytes
from bitsandbytes import functional as F

FOLDER = "tests/golden/quant"
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
# Where dQuantizeNF4 and dQuantizeFP4 in bitsandbytes' kernels.cu change from one code to the next.
THRESHOLDS = {
    "nf4": [
        -0.8480964, -0.6106329262256622, -0.4599952697753906, -0.33967943489551544,
        -0.23460740595056084, -0.13791173323988914, -0.045525018125772476, 0.03979014977812767,
        0.1202552504837513, 0.2035212516784668, 0.2920137718319893, 0.3893125355243683,
        0.5016634166240692, 0.6427869200706482, 0.8614784181118011,
    ],
    "fp4": [0.00260417, 0.0859375, 0.20833333, 0.29166667, 0.4166667, 0.583333, 0.8333333],
}


def raw(tensor):
    """A tensor's bytes as unsigned integers of its element size."""
    size = tensor.element_size()
    return tensor.detach().cpu().contiguous().view(torch.uint8).numpy().view(f"<u{size}").ravel()


def write(path, note, arrays):
    with open(path, "wb") as f:
        text = json.dumps(note).encode()
        f.write(b"nbgold1\n" + struct.pack("<I", len(text)) + text)
        for name, array in arrays.items():
            f.write(struct.pack("<IIQ", len(name), array.itemsize, array.size))
            f.write(name.encode() + array.tobytes())


def read(path):
    data, arrays = open(path, "rb").read(), {}
    assert data[:8] == b"nbgold1\n"
    at = 12 + struct.unpack_from("<I", data, 8)[0]
    while at < len(data):
        name_len, size, count = struct.unpack_from("<IIQ", data, at)
        at += 16
        name = data[at : at + name_len].decode()
        at += name_len
        arrays[name] = np.frombuffer(data, f"<u{size}", count, at)
        at += size * count
    return arrays


def edges(block, dtype, generator):
    """Blocks of one kind each: zero, -0, equal, one weight, huge, tiny, ties of sign, random."""
    top, small = (60000.0, 6e-8) if dtype == torch.float16 else (3e38, 1e-30)
    one = torch.zeros(block)
    one[block // 2] = -0.75
    ramp = torch.linspace(-1, 1, block)
    noise = torch.randn(block, generator=generator)
    blocks = [one * 0, one * -0.0, one * 0 + 0.3, one, ramp * top, ramp * small, ramp, noise,
              (noise * 8).round() / 8, ramp[: block // 2 + 1] * 0.01]
    return torch.cat(blocks).to(dtype)


def near_thresholds(quant_type, block, generator):
    """f32 blocks with an absmax of any mantissa and weights a few ulps around each threshold."""
    blocks = []
    for _ in range(48):
        absmax = 1 + torch.rand(1, generator=generator)
        x = absmax * torch.tensor(THRESHOLDS[quant_type])
        x = torch.cat([x, -x]) if quant_type == "fp4" else x.repeat(2)
        x = x.repeat(-(-block // x.numel()))[: block - 1]
        ulps = torch.randint(-2, 3, x.shape, generator=generator, dtype=torch.int32)
        blocks.append(torch.cat([(x.view(torch.int32) + ulps).view(torch.float32), absmax]))
    return torch.cat(blocks)


def cases():
    """(name, type, block, nested, input). FP4 has odd lengths on the CPU: see README.md."""
    generator = torch.Generator().manual_seed(20)
    normal = lambda n: 0.02 * torch.randn(n, generator=generator)
    for block, n in ((32, 81), (64, 193), (128, 322), (256, 641), (512, 550), (1024, 1061),
                     (2048, 2086), (4096, 4133)):
        for i, quant_type in enumerate(("nf4", "fp4")):
            for j, (dtype_name, dtype) in enumerate(DTYPES.items()):
                if block < 256 or (block + i) % 3 == j and (block < 2048 or i == block // 4096):
                    yield f"normal-{quant_type}-{block}-{dtype_name}", quant_type, block, False, \
                        normal(n | i).to(dtype)
    for quant_type in ("nf4", "fp4"):
        for dtype_name, dtype in DTYPES.items():
            for block in (32, 64):
                yield f"edges-{quant_type}-{block}-{dtype_name}", quant_type, block, False, \
                    edges(block, dtype, generator)
        yield f"thresholds-{quant_type}", quant_type, 64, False, \
            near_thresholds(quant_type, 64, generator)
        # absmax, weights and products around and below 2^-126, which CUDA flushes.
        ramp = torch.linspace(-1, 1, 32)
        scales = torch.tensor([[2.0**e] for e in (-116, -120, -124, -125, -126, -127, -130, -140)])
        mixed = torch.cat([ramp[:16] * 2**-126, ramp[16:] * 2**-124, torch.full((32,), 2**-127)])
        subnormal = torch.cat([(ramp * scales).flatten(), mixed])
        for dtype_name in ("f32", "bf16"):
            yield f"cuda-subnormal-{quant_type}-{dtype_name}", quant_type, 32, False, \
                subnormal.to(DTYPES[dtype_name])
        infinite = torch.zeros(3, 32)
        infinite[:, 1:4] = torch.tensor([1, -1, 0.5])
        infinite[:, 0] = torch.tensor([torch.nan, torch.inf, -torch.inf])
        yield f"cuda-infinite-{quant_type}", quant_type, 32, False, infinite.flatten()
    scales = torch.exp(torch.randn(300, generator=generator)).repeat_interleave(64)
    yield "nested-nf4-bf16", "nf4", 64, True, (normal(300 * 64) * scales)[:-9].to(torch.bfloat16)
    yield "nested-fp4-f16", "fp4", 32, True, normal(259 * 32 - 5).to(torch.float16)
    yield "nested-nf4-f32", "nf4", 64, True, normal(64)


def answer(x, quant_type, block, nested):
    """bitsandbytes' codes and scales for x, and what it makes of them again."""
    codes, state = F.quantize_4bit(x, blocksize=block, quant_type=quant_type,
                                   compress_statistics=nested)
    arrays = {"codes": raw(codes)}
    if nested:
        absmax = F.dequantize_blockwise(state.absmax, state.state2) + state.offset
        arrays |= {"absmax_code": raw(state.absmax), "nested_absmax": raw(state.state2.absmax),
                   "nested_offset": raw(state.offset.reshape(1)), "absmax": raw(absmax)}
    else:
        arrays["absmax"] = raw(state.absmax)
    for name, dtype in DTYPES.items():
        state.dtype = dtype
        arrays[name] = raw(F.dequantize_4bit(codes, state).flatten())
    return arrays


def reciprocal_sums():
    """1 / x as CUDA's fast math has it, for each f32 in [1, 2): in 128 equal parts, the sum of the
    results' bits and that of the bits times the position in the part."""
    kernel = torch.cuda._compile_kernel(
        """extern "C" __global__ void reciprocal(const float *x, float *y) {
               unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
               asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y[i]) : "f"(x[i]));
           }""", "reciprocal")
    x = torch.arange(0x3F800000, 0x40000000, dtype=torch.int32).view(torch.float32).cuda()
    y = torch.empty_like(x)
    kernel(grid=(x.numel() // 256, 1, 1), block=(256, 1, 1), args=[x, y])
    parts = y.view(torch.int32).to(torch.int64).reshape(128, -1)
    position = torch.arange(parts.shape[1], device="cuda")
    return torch.stack([parts.sum(1), (parts * position).sum(1)], 1)


def fnv1a(array):
    """64-bit FNV-1a of an array's bytes: enough to demand that all of it is equal."""
    h = 0xCBF29CE484222325
    for byte in array.tobytes():
        h = (h ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return np.array([h], "<u8")


def main(device):
    arrays = {}
    if device == "cuda":
        inputs = read(f"{FOLDER}/cpu.bin")
        arrays["reciprocal_sums"] = raw(reciprocal_sums())
    else:
        arrays |= {"dynamic_map": raw(F.create_dynamic_map()),
                   "nf4_map": raw(F.get_4bit_type("nf4", device="cpu")),
                   "fp4_map": raw(F.get_4bit_type("fp4", device="cpu"))}
    for name, quant_type, block, nested, x in cases():
        if device == "cuda":
            x = torch.from_numpy(inputs[f"{name}/x"].copy()).view(x.dtype).cuda()
        result = answer(x, quant_type, block, nested)
        dtype = list(DTYPES.values()).index(x.dtype)
        info = [("nf4", "fp4").index(quant_type), block, x.numel(), dtype, nested]
        arrays[f"{name}/info"] = np.array(info, "<u4")
        if device == "cpu":
            arrays[f"{name}/x"] = raw(x)
        if device == "cpu" and name.startswith("cuda"):
            continue
        for field, array in result.items():
            if field in DTYPES and "infinite" in name:
                continue  # NaNs, whose bits differ from processor to processor
            keep = field not in DTYPES or x.numel() < 400 and (device == "cpu" or "cuda" in name)
            arrays[f"{name}/{field}{'' if keep else '.fnv'}"] = array if keep else fnv1a(array)
    note = {"script": "tools/golden/quant.py", "device": device,
            "bitsandbytes": bitsandbytes.__version__, "torch": torch.__version__}
    if device == "cuda":
        note["gpu"] = torch.cuda.get_device_name()
    write(f"{FOLDER}/{device}.bin", note, arrays)


main(sys.argv[1])

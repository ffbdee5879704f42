"""What the tests of this folder in Python share: they speak TAP."""
number = failed = 0


def expect(name, condition):
    """A test: what it is that should hold, and whether it does."""
    global number, failed
    number += 1
    failed += not condition
    print(f"{'ok' if condition else 'not ok'} {number} - {name}", flush=True)


def end():
    """Says how many there were; the exit code: 1 if one failed."""
    print(f"1..{number}")
    return int(failed > 0)

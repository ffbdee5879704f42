#!/usr/bin/env python3
"""TFLOP/s of torch's product of two 8192 x 8192 matrices of random bf16: what large products reach on this GPU."""

import torch

N, TIMES = 8192, 10
a = torch.randn(N, N, device="cuda", dtype=torch.bfloat16)
b = torch.randn(N, N, device="cuda", dtype=torch.bfloat16)
for _ in range(3):
    a @ b
begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
begin.record()
for _ in range(TIMES):
    a @ b
end.record()
torch.cuda.synchronize()
print(TIMES * 2 * N**3 / (begin.elapsed_time(end) * 1e-3) * 1e-12)

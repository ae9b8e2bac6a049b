"""The scan and the convolution of Mamba-2: plain definitions (`reference`), GPU kernels (`fused`, `kernels`)."""

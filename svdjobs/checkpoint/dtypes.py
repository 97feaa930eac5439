"""The dtypes of safetensors files in NumPy and in torch, and tensors from one to the other.

NumPy has bfloat16 and the float8 dtypes from ml_dtypes. Both libraries see the same memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from svdjobs.checkpoint.safetensors_format import SAFETENSORS_NAMES, TORCH_NAMES

if TYPE_CHECKING:
    import torch

# By safetensors' name. Other dtypes (those of less than a byte) are held as bytes.
_NUMPY: dict[str, Any] = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8,
    "U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8,
    "BOOL": np.bool_, "C64": np.complex64,
    "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2,
    "F8_E8M0": ml_dtypes.float8_e8m0fnu, "F8_E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
    "F8_E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
}  # fmt: skip


def numpy_dtype(dtype: str) -> Any:
    """NumPy's dtype by safetensors' name; None if NumPy has none."""
    return _NUMPY.get(dtype)


def as_tensor(array: npt.NDArray[Any], dtype: str) -> torch.Tensor:
    """View an array as a tensor of the dtype with safetensors' name; as bytes if torch has none."""
    import torch

    flat = torch.from_numpy(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return flat.view(getattr(torch, TORCH_NAMES.get(dtype, "uint8"))).reshape(array.shape)


def as_array(tensor: torch.Tensor) -> npt.NDArray[Any]:
    """View a tensor on the CPU as an array; as a copy if it is not contiguous."""
    import torch

    flat = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
    dtype = _NUMPY[SAFETENSORS_NAMES[str(tensor.dtype).removeprefix("torch.")]]
    array: npt.NDArray[Any] = flat.view(dtype)
    return array.reshape(tuple(tensor.shape))

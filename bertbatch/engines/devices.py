"""Arrays to a device, and its ways of having no memory left."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from bertbatch.errors import OutOfMemory


def there(array: np.ndarray, device: str) -> Tensor:
    """The array on a device, on its way while the caller goes on."""
    tensor = torch.from_numpy(array)
    return tensor if device == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


@contextmanager
def as_out_of_memory() -> Iterator[None]:
    """Turns both devices' ways of having no memory left into OutOfMemory."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        raise OutOfMemory(str(error)) from None
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):
            raise
        raise OutOfMemory(str(error)) from None

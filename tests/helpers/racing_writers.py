"""Writers that create one path at the same moment."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from bertbatch.storage.stores import Store


def race(store: Store, path: str, writers: int = 32, size: int = 100_000) -> list[bytes]:
    """Lets writers create one path at the same moment; what each of the winners wrote."""
    barrier = Barrier(writers)

    def write(number: int) -> bytes | None:
        data = bytes([number]) * size
        barrier.wait()
        try:
            store.create(path, data)
        except FileExistsError:
            return None
        return data

    with ThreadPoolExecutor(writers) as pool:
        return [data for data in pool.map(write, range(writers)) if data is not None]

"""TensorFlow checkpoints (optional), read with numpy alone: PREFIX.index, and PREFIX.data-00000-of-00001, the raw tensors.

The index is a LevelDB table (github.com/google/leveldb, doc/table_format.md): sorted names, and for each a BundleEntryProto
(tensorflow/core/protobuf/tensor_bundle.proto): dtype, shape, shard, offset, size and checksum of a tensor.
"""

import struct
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np

from recipe.errors import RecipeError, as_recipe_error

TABLE_MAGIC = 0xDB4775248B80FB57
FOOTER_BYTES, TRAILER_BYTES = 48, 5  # of a table; of a block: its compression and its checksum
FLOAT32 = 1  # DT_FLOAT in tensorflow/core/framework/types.proto
POLYNOMIAL = 0x82F63B78  # of CRC-32C (Castagnoli), its bits reversed
FOLD_WORDS = 1 << 14  # 64 KiB: rows of this width stay in a core's cache


def read_tensors(prefix: Path) -> dict[str, np.ndarray]:
    """Read every tensor of a checkpoint, float32, by name; checksums are verified.

    Raises:
        RecipeError: a file is missing, cut short or damaged, or holds what GPT-2 does not (other dtypes, slices).
    """
    problem = f"{prefix}.index is damaged, or no index of a TensorFlow checkpoint"
    errors = (IndexError, KeyError, TypeError, ValueError, struct.error)
    with as_recipe_error(errors, problem, "download it again"):
        (_, header), *entries = table_entries(Path(f"{prefix}.index"))
        header = read_fields(header)  # a BundleHeaderProto: the number of shards, the order of bytes
        if header.get(2, [0]) != [0]:
            raise RecipeError(f"{prefix}: its numbers are big-endian, which is not supported")
        return {
            name.decode(): read_tensor(prefix, name.decode(), read_fields(entry), header[1][0])
            for name, entry in entries
        }


def read_tensor(prefix: Path, name: str, entry: dict[int, list], shards: int) -> np.ndarray:
    """Read one tensor, by the fields of its entry."""
    if entry.get(1) != [FLOAT32] or 7 in entry:
        raise RecipeError(f"{prefix}: {name} is not a whole float32 tensor (dtype {entry.get(1)}): only these are read")
    shape = [read_fields(size).get(1, [0])[0] for size in read_fields(entry.get(2, [b""])[0]).get(2, [])]
    shard, offset, size = (entry.get(field, [0])[0] for field in (3, 4, 5))
    path = Path(f"{prefix}.data-{shard:05d}-of-{shards:05d}")
    if not path.is_file() or path.stat().st_size < offset + size:
        raise RecipeError(f"{path} is missing or cut short: download it again")
    tensor = np.fromfile(path, dtype=np.uint8, count=size, offset=offset)
    if masked_crc32c(tensor) != entry[6][0]:
        raise RecipeError(f"{path}: {name} is damaged, its checksum differs: download it again")
    return tensor.view("<f4").reshape(shape)


def table_entries(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values of a LevelDB table, in order: its index block leads to the blocks that hold them."""
    table = path.read_bytes()
    footer = table[-FOOTER_BYTES:]
    if len(footer) < FOOTER_BYTES or struct.unpack("<Q", footer[-8:])[0] != TABLE_MAGIC:
        raise ValueError("no footer")
    _, _, *index_handle = read_varints(footer, 4)[0]
    for _, handle in block_entries(table, *index_handle):
        yield from block_entries(table, *read_varints(handle, 2)[0])


def block_entries(table: bytes, start: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values of one block: a key is stored without what it shares with the one before."""
    block, trailer = table[start : start + size], table[start + size :][:TRAILER_BYTES]
    compression, checksum = struct.unpack("<BI", trailer)
    if masked_crc32c(np.frombuffer(table, np.uint8, size + 1, start)) != checksum:
        raise ValueError("a checksum differs")
    if compression:
        raise RecipeError("the checkpoint's index is compressed, which is not supported: save it again by TensorFlow")
    restarts = struct.unpack("<I", block[-4:])[0]
    key, at = b"", 0
    while at < len(block) - 4 * (restarts + 1):
        (shared, rest, length), at = read_varints(block, 3, at)
        key = key[:shared] + block[at : at + rest]
        yield key, block[at + rest : at + rest + length]
        at += rest + length


def read_varints(data: bytes, count: int, at: int = 0) -> tuple[list[int], int]:
    """Read unsigned numbers of 7 bits a byte, the low ones first; return them, and where they end."""
    numbers = []
    for _ in range(count):
        number = shift = 0
        while data[at] & 0x80:
            number |= (data[at] & 0x7F) << shift
            at, shift = at + 1, shift + 7
        numbers.append(number | data[at] << shift)
        at += 1
    return numbers, at


def read_fields(message: bytes) -> dict[int, list]:
    """Read a protobuf message: the values of each field number, ints, or bytes where the field has a length."""
    fields: dict[int, list] = {}
    at = 0
    while at < len(message):
        (tag,), at = read_varints(message, 1, at)
        if tag & 7 == 0:
            (value,), at = read_varints(message, 1, at)
        elif tag & 7 == 2:
            (length,), at = read_varints(message, 1, at)
            value, at = message[at : at + length], at + length
        elif tag & 7 == 5:
            (value,), at = struct.unpack_from("<I", message, at), at + 4
        else:
            raise ValueError(f"wire type {tag & 7}")
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def masked_crc32c(data: np.ndarray) -> int:
    """Return the CRC-32C of bytes (uint8), rotated and shifted as LevelDB and TensorFlow store it."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def crc32c(data: np.ndarray) -> int:
    """Return the CRC-32C (RFC 3720) of bytes, uint8, at about two seconds a GB.

    A CRC is the remainder of a message, a polynomial over two elements, so the message may be folded first: a row times x
    to the power of a row's bits is added (xor) to the next row, and the remainder is the same. numpy folds rows of words.
    """
    width = min(FOLD_WORDS, 1 << (len(data) // 4).bit_length())
    head = len(data) % (4 * width)
    row = np.zeros(4 * width, dtype=np.uint8)  # zeros in front of a message change nothing
    row[len(row) - head :] = data[:head]
    row = row.view("<u4")
    if len(data) > head:
        low, high = product_tables(32 * width)
        for following in data[head:].view("<u4").reshape(-1, width):
            row = low[row & 0xFFFF] ^ high[row >> 16] ^ following
    while len(row) > 1:
        row = times_x(row[: len(row) // 2], 16 * len(row)) ^ row[len(row) // 2 :]
    ones = np.array([0xFFFFFFFF], dtype=np.uint32)  # the start value, which stands before the message
    return int((times_x(row, 32) ^ times_x(ones, 8 * len(data)))[0]) ^ 0xFFFFFFFF


def times_x(words: np.ndarray, power: int) -> np.ndarray:
    """Multiply polynomials, uint32 with their bits reversed, by x to a power, modulo the CRC's polynomial."""
    for k in range(power.bit_length()):
        if power >> k & 1:
            words = product(words, squared_x(k))
    return words


def product(words: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Add up, for the set bits of each word, their images: uint32 [N], [32] -> [N]."""
    result = np.zeros_like(words)
    for bit in range(32):
        result ^= (words >> np.uint32(bit) & np.uint32(1)) * images[bit]
    return result


@cache
def squared_x(k: int) -> np.ndarray:
    """Return the images of the 32 single bits under multiplication by x to the power of 2 ** k."""
    if k == 0:
        bits = np.uint32(1) << np.arange(32, dtype=np.uint32)
        return bits >> 1 ^ (bits & 1) * np.uint32(POLYNOMIAL)
    return product(squared_x(k - 1), squared_x(k - 1))


@cache
def product_tables(power: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the products of x to a power with every low half of a word, and with every high half."""
    halves = np.arange(1 << 16, dtype=np.uint32)
    return times_x(halves, power), times_x(halves << np.uint32(16), power)

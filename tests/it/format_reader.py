"""Reads one snapshot of a vecsnap repository, from format-spec.md alone and without index.sqlite.

    format_reader.py REPO STAMP OUT_DIR

Writes every captured source to OUT_DIR/<source name>/<path>, with modes, times, holes and links, after verifying every hash.
Prints a JSON summary; exits with 1 and one sentence if the snapshot cannot be read whole. Needs blake3 and zstandard.
"""

import datetime
import itertools
import json
import os
import re
import struct
import sys
from collections import OrderedDict, defaultdict, namedtuple

import blake3
import zstandard

# §12
CHUNK_SIZE = BLOB_BYTES = 65_536
NODE_SLOTS, NODE_DEPTH = 128, 7
FRAME_BYTES = 8 << 20
PACK_BYTES, PACK_FRAMES, PACK_RECORDS, FOOTER_BYTES = 256 << 20, 65_536, 524_288, 64 << 20
DELTA_BASES, CHAIN_DEPTH, CHAIN_RECORDS, BASE_COMBINATIONS = 64, 128, 1_024, 256
WINDOW_BYTES = 8 << 20  # §2.5
TRIES = 16_384  # §9.7
MANIFEST_BYTES, SOURCES, EXTENSIONS, HEADER_BYTES = 1 << 20, 64, 64, 4_096
TABLE_ENTRY_BYTES, PATH_BYTES, NAME_BYTES = 65_536, 4_096, 255

CHUNK, NODE = "chunk", "list node"
FLAG_NODE, FLAG_DELTA, FLAG_ID_TABLE = 1, 2, 4

Content = namedtuple("Content", "length depth id")  # depth None: empty; 0: one chunk
Record = namedtuple("Record", "pack id kind frame offset length payload_length bases id_table")
Frame = namedtuple("Frame", "offset stored_length raw_length records codec")
Source = namedtuple("Source", "name kind state table")
Entry = namedtuple("Entry", "path kind content target mode uid gid modified")
Blob = namedtuple("Blob", "bytes depth records")


class Damaged(Exception):
    """Something is not as the format says."""


def need(condition, sentence):
    if not condition:
        raise Damaged(sentence)


# §2 Primitives


class Cursor:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        need(count <= len(self.data) - self.at, "a structure ends too early")
        self.at += count
        return self.data[self.at - count : self.at]

    def _number(self, layout):
        return struct.unpack("<" + layout, self.take(struct.calcsize("<" + layout)))[0]

    def u8(self):
        return self._number("B")

    def u16(self):
        return self._number("H")

    def u32(self):
        return self._number("I")

    def u64(self):
        return self._number("Q")

    def i64(self):
        return self._number("q")

    def bool(self):
        value = self.u8()
        need(value < 2, "a boolean is neither 0 nor 1")
        return value == 1

    def option(self, read):
        return read() if self.bool() else None

    def bytes(self):
        return self.take(self.u64())

    def string(self):
        try:
            return self.bytes().decode("utf-8")
        except UnicodeDecodeError:
            raise Damaged("a string is not UTF-8") from None

    def sequence(self, read, limit, what):
        count = self.u64()
        need(count <= limit, f"{what} are more than the limit of the format")
        return [read() for _ in range(count)]

    def column(self, width, limit, what):
        """A sequence of items of one width, cut from the data in one piece."""
        count = self.u64()
        need(count <= limit, f"{what} are more than the limit of the format")
        data = self.take(count * width)
        return [data[i : i + width] for i in range(0, len(data), width)]

    def numbers(self, limit, what):
        return [int.from_bytes(item, "little") for item in self.column(4, limit, what)]

    def enum(self, count):
        number = self.u32()
        need(number < count, f"an enumeration has the unknown number {number}")
        return number

    def time(self):
        seconds, nanoseconds = self.i64(), self.u32()
        need(nanoseconds < 10**9, "a time has a second of nanoseconds")
        return seconds, nanoseconds

    def extensions(self):
        tags = self.sequence(lambda: (self.u32(), self.bytes())[0], EXTENSIONS, "extensions")
        need(all(a < b for a, b in zip(tags, tags[1:])), "extensions do not ascend")

    def leb128(self):
        number = 0
        for position in range(5):
            byte = self.u8()
            need(position < 4 or byte <= 0x0F, "a number has more than 32 bits")
            number |= (byte & 0x7F) << (7 * position)
            if byte < 0x80:
                need(byte or not position, "a number is not in its shortest form")
                return number
        raise Damaged("a number has more than 32 bits")

    def end(self):
        need(self.at == len(self.data), "a structure has bytes after its end")


def decompress(codec, stored, raw_length):
    """§2.5"""
    if codec == 0:
        raw = stored
    elif codec in (1, 2):
        try:
            need(zstandard.frame_content_size(stored) == raw_length, "a zstd frame states another length")
            parameters = zstandard.get_frame_parameters(stored)
            need(parameters.window_size <= WINDOW_BYTES, "a zstd frame has a window above the limit")
            raw = zstandard.ZstdDecompressor().decompress(stored, max_output_size=raw_length, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise Damaged(f"it cannot be decompressed ({error})") from None
    else:
        raise Damaged(f"codec {codec} is unknown")
    need(len(raw) == raw_length, "its decoded length is not the declared one")
    return join_planes(raw) if codec == 2 else raw


def join_planes(planes):
    """§2.7"""
    joined = bytearray(planes)
    for start in range(0, len(planes), 524_288):
        segment = planes[start : start + 524_288]
        count = len(segment) // 4
        for plane in range(4):
            joined[start + plane : start + 4 * count : 4] = segment[plane * count : (plane + 1) * count]
    return bytes(joined)


# §3 Ids


def id_of(kind, content):
    if kind == CHUNK:
        return blake3.blake3(content).digest()
    return blake3.blake3(content, derive_key_context="vecsnap list node v1").digest()


# §4 Envelope


def open_envelope(magic, data, limit):
    """The payload of the envelope at the start of data, and the envelope's length."""
    cursor = Cursor(data)
    need(cursor.take(8) == magic, "it does not begin with the expected magic")
    version = cursor.u16()
    need(version == 1, f"it has the format version {version}")
    codec, protection, reserved = cursor.u8(), cursor.u8(), cursor.take(4)
    raw_length, stored_length = cursor.u64(), cursor.u64()
    need(max(raw_length, stored_length) <= limit, "its length is above the limit of the format")
    stored = cursor.take(stored_length)
    checked = data[: cursor.at]
    need(cursor.take(32) == blake3.blake3(checked).digest(), "its checksum does not match its bytes")
    need(protection == 0, f"protection {protection} is unknown")
    need(reserved == bytes(4), "its reserved bytes are not zero")
    return decompress(codec, stored, raw_length), cursor.at


# §5 repository.json and header


def read_repository_id(data):
    try:
        document = json.loads(data.decode("utf-8"))
    except ValueError as error:
        raise Damaged(f"it is not JSON ({error})") from None
    need(isinstance(document, dict) and document.get("format") == "vecsnap", "it is no vecsnap repository")
    version = document.get("format_version")
    need(type(version) is int and version == 1, f"it has the format version {version}")
    need(document.get("features") == [], f"it needs unknown features: {document.get('features')}")
    chunking = document.get("chunking")
    size = chunking.get("size") if isinstance(chunking, dict) and chunking.get("kind") == "fixed" else None
    need(type(size) is int and size == CHUNK_SIZE, "its chunking is unknown")
    need(isinstance(document.get("created_at", ""), str), "it was made at no time")
    text = str(document.get("repository_id"))
    need(re.fullmatch("[0-9a-f]{32}", text), "its repository id is not 32 hexadecimal digits")
    return bytes.fromhex(text)


def take_header(cursor, repository_id):
    need(cursor.take(16) == repository_id, "it belongs to another repository")
    need(cursor.u32() == CHUNK_SIZE, "its chunk size is unknown")
    features = cursor.sequence(cursor.string, HEADER_BYTES, "features")
    need(not features, f"it needs unknown features: {features}")


# §6 Packs


class Pack:
    def __init__(self, path, repository_id):
        self.path = path
        size = os.path.getsize(path)
        need(size <= PACK_BYTES, "it is longer than a pack may be")
        hasher = blake3.blake3()
        hasher.update_mmap(path)
        self.intact = hasher.hexdigest() == os.path.basename(path)[:64]
        end = Cursor(self._read(size - 24, 24))
        offset, length = end.u64(), end.u64()
        need(end.take(8) == b"vecsnapE" and offset + length + 24 == size, "its end does not point at its footer")
        head, header_length = open_envelope(b"vecsnapP", self._read(0, min(size, HEADER_BYTES + 64)), HEADER_BYTES)
        header = Cursor(head)
        take_header(header, repository_id)
        header.end()
        payload, footer_length = open_envelope(b"vecsnapF", self._read(offset, length), FOOTER_BYTES)
        need(footer_length == length, "its footer has bytes after its end")
        self._take_footer(Cursor(payload), header_length, offset)

    def _read(self, offset, length):
        need(offset >= 0, "it ends too early")
        with open(self.path, "rb") as file:
            file.seek(offset)
            data = file.read(length)
        need(len(data) == length, "it ends too early")
        return data

    def _take_footer(self, cursor, begin, end):
        def frame():
            item = Frame(cursor.u64(), cursor.u32(), cursor.u32(), cursor.u32(), cursor.u8())
            need(cursor.u8() == 0, "a frame has an unknown protection")
            return item

        self.frames = cursor.sequence(frame, PACK_FRAMES, "frames")
        ids = cursor.column(32, PACK_RECORDS, "ids")
        flags = cursor.bytes()
        lengths = cursor.numbers(PACK_RECORDS, "lengths")
        payload_lengths = cursor.numbers(PACK_RECORDS, "payload lengths")
        base_counts = iter(cursor.bytes())
        bases = iter(cursor.column(8, PACK_RECORDS * DELTA_BASES, "bases"))
        need(not cursor.bool(), "it has a parity section")
        cursor.end()
        need({len(flags), len(lengths), len(payload_lengths)} == {len(ids)}, "its columns are not of one length")
        self.id_table = b"".join(ids)
        self.records = []
        columns = iter(zip(ids, flags, lengths, payload_lengths))
        for number, frame in enumerate(self.frames):
            need(frame.offset == begin, "its frames do not follow each other without a gap")
            need(max(frame.raw_length, frame.stored_length) <= FRAME_BYTES, "a frame is above the limit")
            need(frame.codec < 3 and frame.records > 0, "a frame is empty or has an unknown codec")
            begin += frame.stored_length
            offset = 0
            for id, flag, length, payload_length in itertools.islice(columns, frame.records):
                need(flag < 16 and (flag & FLAG_DELTA or not flag & ~FLAG_NODE), "a record has unknown flags")
                own = None
                if flag & FLAG_DELTA:
                    count = next(base_counts, DELTA_BASES + 1)
                    own = list(itertools.islice(bases, count))
                    need(len(own) == count <= DELTA_BASES, "a delta lacks bases or has too many")
                else:
                    need(length == payload_length, "a whole record has not the length of its payload")
                need(0 < length <= BLOB_BYTES and payload_length > 0, "a record's length is not allowed")
                kind = NODE if flag & FLAG_NODE else CHUNK
                table = bool(flag & FLAG_ID_TABLE)
                self.records.append(Record(self, id, kind, number, offset, length, payload_length, own, table))
                offset += payload_length
            need(offset == frame.raw_length, "a frame's records do not fill it")
        need(begin == end, "its frames do not end where its footer begins")
        need(sum(frame.records for frame in self.frames) == len(ids), "it has not the records that its frames claim")
        need(next(base_counts, None) is None and next(bases, None) is None, "it has bases that no record claims")

    def frame_bytes(self, number):
        frame = self.frames[number]
        return decompress(frame.codec, self._read(frame.offset, frame.stored_length), frame.raw_length)


# §9 Deltas


def apply_delta(payload, bases, length):
    cursor = Cursor(payload)
    code = Cursor(cursor.take(cursor.leb128()))
    output = bytearray()
    base, displacement = 0, 0
    while code.at < len(code.data):
        number = code.leb128()
        tag, count = number & 3, number >> 2
        need(0 < count <= BLOB_BYTES and tag < 3, "an instruction is not allowed")
        if tag == 0:
            output += cursor.take(count)
            continue
        if tag == 2:
            base = code.leb128()
            displacement = code.leb128() - len(output)
        start = len(output) + displacement
        need(base < len(bases) and 0 <= start and start + count <= len(bases[base]), "a copy reads outside its base")
        output += bases[base][start : start + count]
        need(len(output) <= length, "a delta gives too many bytes")
    cursor.end()
    need(len(output) == length, "a delta gives too few bytes")
    return bytes(output)


class Cache(OrderedDict):
    def __init__(self, limit):
        super().__init__()
        self.limit = limit

    def keep(self, key, value):
        self[key] = value
        if len(self) > self.limit:
            self.popitem(last=False)
        return value


def entries(directory):
    return sorted(os.scandir(directory), key=lambda entry: entry.name)


class Repository:
    def __init__(self, root):
        self.root = root
        self.id = self._at("repository.json", read_repository_id, self._file("repository.json", 1 << 20))
        self.records, self.by_prefix = defaultdict(list), defaultdict(set)
        self.frames, self.blobs = Cache(16), Cache(1024)
        self.tries, self.limits, self.vain = 0, 0, {}
        self._read_packs()

    def _file(self, name, limit):
        try:
            with open(os.open(os.path.join(self.root, name), os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
                data = file.read(limit + 1)
        except OSError as error:
            raise Damaged(f"cannot read {os.path.join(self.root, name)}: {error.strerror}") from None
        need(len(data) <= limit, f"{name} is longer than it may be")
        return data

    @staticmethod
    def _at(name, function, *arguments):
        try:
            return function(*arguments)
        except Damaged as error:
            raise Damaged(f"{name}: {error}") from None

    def _read_packs(self):
        """§17.2"""
        for folder in entries(os.path.join(self.root, "packs")):
            if not re.fullmatch("[0-9a-f]{2}", folder.name) or not folder.is_dir(follow_symlinks=False):
                continue
            for file in entries(folder.path):
                named = re.fullmatch(r"[0-9a-f]{64}\.pack", file.name) and file.name[:2] == folder.name
                if not named or not file.is_file(follow_symlinks=False):
                    continue
                path = file.path
                try:
                    pack = Pack(path, self.id)
                except (Damaged, OSError) as error:
                    print(f"warning: {path} is left out: {error}", file=sys.stderr)
                    continue
                if not pack.intact:
                    print(f"warning: {path} has not the hash in its name", file=sys.stderr)
                for record in pack.records:
                    self.records[record.id].append(record)
                    self.by_prefix[record.id[:8]].add(record.id)
        for records in self.records.values():
            records.sort(key=lambda record: record.bases is not None)

    def blob(self, id, kind):
        self.tries, self.limits, self.vain = 0, 0, {}
        return self._blob(id, kind, frozenset()).bytes

    def _blob(self, id, kind, above):
        """§17.3: tries the records of a blob in turn; `above` are the blobs being rebuilt from it."""
        found = self.blobs.get((id, kind))
        if found is not None:
            self.blobs.move_to_end((id, kind))
            return found
        need(id not in above, f"the {kind} {id.hex()} would be rebuilt from itself")
        need((id, kind) not in self.vain, self.vain.get((id, kind)))
        reason = f"the {kind} {id.hex()} is missing"
        known, limits = len(self.vain), self.limits
        for record in self.records.get(id, ()):
            try:
                need(record.kind == kind, f"the {kind} {id.hex()} is recorded as another kind of blob")
                self.tries += 1
                self._limit(self.tries <= TRIES, "the search was given up after too many tries of records")
                self._limit(len(above) <= CHAIN_DEPTH, "its chain is too deep")
                blob = self._rebuild(record, above | {id})
                self._forget_vain(known)
                return self.blobs.keep((id, kind), blob)
            except Damaged as error:
                reason = f"the {kind} {id.hex()} in {record.pack.path}: {error}"
        # Nothing leads to it that avoids the blobs above; where one of them is found, or a limit counted, that says nothing.
        if self.limits == limits:
            self.vain[id, kind] = reason
        else:
            self._forget_vain(known)
        raise Damaged(reason)

    def _limit(self, kept, sentence):
        self.limits += not kept
        need(kept, sentence)

    def _forget_vain(self, known):
        while len(self.vain) > known:
            self.vain.popitem()

    def _rebuild(self, record, above):
        key = (record.pack.path, record.frame)
        frame = self.frames.get(key)
        if frame is None:
            frame = self.frames.keep(key, record.pack.frame_bytes(record.frame))
        payload = frame[record.offset : record.offset + record.payload_length]
        own = frozenset([(record.pack.path, record.frame, record.offset)])
        if record.bases is None:
            need(id_of(record.kind, payload) == record.id, "its bytes have not the hash that they should")
            return Blob(payload, 0, own)
        reason = "no combination of its bases gives the bytes with its hash"
        candidates = [list(self._bases(prefix, above)) for prefix in record.bases]
        table = [record.pack.id_table] if record.id_table else []
        for bases in itertools.islice(itertools.product(*candidates), BASE_COMBINATIONS):
            try:
                content = apply_delta(payload, [base.bytes for base in bases] + table, record.length)
            except Damaged as error:
                reason = str(error)
                continue
            if id_of(record.kind, content) == record.id:
                depth = 1 + max((base.depth for base in bases), default=0)
                records = own.union(*(base.records for base in bases))
                self._limit(depth <= CHAIN_DEPTH and len(records) <= CHAIN_RECORDS, "its chain is above the limit")
                return Blob(content, depth, records)
        raise Damaged(reason)

    def _bases(self, prefix, above):
        """The readable blobs of either kind whose id begins with the prefix."""
        reason = f"the base {prefix.hex()} is missing"
        found = False
        for id in sorted(self.by_prefix.get(prefix, ())):
            for kind in {record.kind for record in self.records[id]}:
                try:
                    blob = self._blob(id, kind, above)
                except Damaged as error:
                    reason = str(error)
                    continue
                found = True
                yield blob
        need(found, reason)

    # §7 and §8

    def pieces(self, content):
        """The bytes of a file in order: bytes, or the length of a hole."""
        if content.depth is not None:
            yield from self._walk(content.id, content.depth, content.length)

    def _walk(self, id, depth, length):
        if depth == 0:
            chunk = self.blob(id, CHUNK)
            need(len(chunk) == length, f"the chunk {id.hex()} has not the length of its slot")
            yield chunk
            return
        span = CHUNK_SIZE * NODE_SLOTS ** (depth - 1)
        slots = parse_node(self.blob(id, NODE), depth)
        need(len(slots) == -(-length // span), f"the list node {id.hex()} has not the slots that its place needs")
        for number, child in enumerate(slots):
            covered = min(span, length - number * span)
            if child is None:
                yield covered
            else:
                yield from self._walk(child, depth - 1, covered)

    def manifest(self, stamp):
        name = f"snapshots/{stamp}/manifest"
        return self._at(name, parse_manifest, self._file(name, MANIFEST_BYTES + 64), stamp, self.id)

    def table(self, content):
        """§10: the entries of a file table, in their order."""
        buffer, check = b"", OrderCheck()
        for piece in self.pieces(content):
            need(isinstance(piece, bytes), "a file table has a hole")
            buffer += piece
            at = 0
            while len(buffer) - at >= 4:
                length = int.from_bytes(buffer[at : at + 4], "little")
                need(length <= TABLE_ENTRY_BYTES, "a table entry is above the limit")
                if len(buffer) - at - 4 < length:
                    break
                entry = parse_entry(buffer[at + 4 : at + 4 + length])
                check.accept(entry)
                yield entry
                at += 4 + length
            buffer = buffer[at:]
        need(not buffer, "a file table ends within an entry")


def parse_node(data, depth):
    """§8: one id or None (a hole) for each slot."""
    cursor = Cursor(data)
    need(cursor.u8() == depth, "a list node has not the depth that its place needs")
    count = cursor.u32()
    need(0 < count <= NODE_SLOTS, "a list node has too many slots or none")
    runs = cursor.sequence(lambda: (cursor.u32(), cursor.u32()), NODE_SLOTS, "runs of holes")
    ids = iter(cursor.column(32, NODE_SLOTS, "children"))
    cursor.end()
    holes, free = set(), 0
    for first, length in runs:
        need(first >= free and length > 0 and first + length <= count, "a list node's holes are not ascending runs")
        holes.update(range(first, first + length))
        free = first + length + 1
    slots = [None if number in holes else next(ids, b"") for number in range(count)]
    need(b"" not in slots and next(ids, None) is None, "a list node has not one id for each slot")
    return slots


def take_content(cursor):
    """§7.2"""
    length, root = cursor.u64(), cursor.enum(3)
    depth = None
    if root == 1:
        depth = 0
    elif root == 2:
        depth = cursor.u8()
        need(depth > 0, "a root has no depth")
    id = cursor.take(32) if root else None
    slots = -(-length // CHUNK_SIZE)
    expected = None if not slots else 0 if slots == 1 else next(d for d in range(1, 11) if NODE_SLOTS**d >= slots)
    need(length < 1 << 63 and depth == expected, "a root does not fit its length")
    return Content(length, depth, id)


def check_path(path):
    """§10.4"""
    need(len(path) <= PATH_BYTES, "a path is too long")
    for name in path.split(b"/") if path else ():
        allowed = 0 < len(name) <= NAME_BYTES and name not in (b".", b"..") and b"\0" not in name
        need(allowed, f"the path {path!r} is not allowed")


def parse_entry(data):
    """§10.1 to §10.3"""
    cursor = Cursor(data)
    path, kind = cursor.bytes(), ("directory", "file", "symlink")[cursor.enum(3)]
    content = target = None
    if kind == "file":
        content = take_content(cursor)
        cursor.enum(3)
        cursor.bool()

        def stat():
            return cursor.u64(), cursor.u64(), cursor.time(), cursor.time()

        stat(), cursor.option(stat), cursor.option(stat)
    elif kind == "symlink":
        target = cursor.bytes()
        need(0 < len(target) <= PATH_BYTES and b"\0" not in target, "a link's target is not allowed")
    mode, uid, gid, modified = cursor.u32(), cursor.u32(), cursor.u32(), cursor.time()
    cursor.extensions()
    cursor.end()
    need(mode <= 0o7777, "a mode is not allowed")
    check_path(path)
    need(path or kind == "directory", "an entry without a path is no directory")
    return Entry(path, kind, content, target, mode, uid, gid, modified)


class OrderCheck:
    """§10.5"""

    def __init__(self):
        self.last, self.directories = None, set()

    def accept(self, entry):
        key = entry.path.split(b"/") if entry.path else []
        parent = entry.path.rpartition(b"/")[0]
        ordered = self.last is None or self.last < key
        need(ordered and (not parent or parent in self.directories), f"the path {entry.path!r} is out of order")
        self.last = key
        if entry.kind == "directory":
            self.directories.add(entry.path)


def stamp_of(seconds):
    """§1.2"""
    cycle = 146_097 * 86_400  # 400 years, by which the calendar repeats; Python knows no year 0
    try:
        moment = datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=seconds + (cycle if seconds < 0 else 0))
    except OverflowError:
        raise Damaged("a stamp is no moment of the years 0 to 9999") from None
    year = moment.year - (400 if seconds < 0 else 0)
    need(year >= 0, "a stamp is no moment of the years 0 to 9999")
    return f"{year:04}{moment:%m%dT%H%M%SZ}"


def parse_manifest(data, stamp, repository_id):
    """§11"""
    payload, length = open_envelope(b"vecsnapM", data, MANIFEST_BYTES)
    need(length == len(data), "it has bytes after its end")
    cursor = Cursor(payload)
    take_header(cursor, repository_id)
    need(stamp_of(cursor.i64()) == stamp, "its stamp is not the name of its directory")
    cursor.enum(2)
    cursor.i64(), cursor.string(), cursor.string(), cursor.option(lambda: stamp_of(cursor.i64()))

    def source():
        name, kind, state = cursor.string(), cursor.enum(3), cursor.enum(5)
        check_path(name.encode())
        need(name and "/" not in name, "a source's name is not allowed")
        need(len(cursor.bytes()) <= PATH_BYTES, "a path is too long")
        table = take_content(cursor)
        need(state < 2 or table.depth is None, "a source that was not captured has a table")
        cursor.u64(), cursor.u64(), cursor.time()
        if cursor.enum(4) >= 2:
            cursor.string()
        if cursor.enum(3) == 2:
            cursor.sequence(cursor.string, MANIFEST_BYTES, "reasons")
        cursor.u64()
        return Source(name, kind, state, table)

    sources = cursor.sequence(source, SOURCES, "sources")
    cursor.extensions()
    cursor.end()
    need(len({source.name for source in sources}) == len(sources), "two sources have one name")
    return sources


# §17.5


def write_file(path, pieces):
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with open(os.open(path, flags, 0o600), "wb") as file:
        for piece in pieces:
            if isinstance(piece, int):
                file.seek(piece, os.SEEK_CUR)
            else:
                file.write(piece)
        file.truncate(file.tell())


def set_metadata(path, entry):
    try:
        os.chown(path, entry.uid, entry.gid, follow_symlinks=False)
    except PermissionError:
        pass
    if entry.kind != "symlink":
        os.chmod(path, entry.mode)
    when = entry.modified[0] * 10**9 + entry.modified[1]
    os.utime(path, ns=(when, when), follow_symlinks=False)


def extract(repository, source, out):
    base = os.path.join(os.fsencode(out), os.fsencode(source.name))
    os.mkdir(base, 0o700)
    directories = []
    for entry in repository.table(source.table):
        path = os.path.join(base, entry.path) if entry.path else base
        if entry.kind == "directory":
            if entry.path:
                os.mkdir(path, 0o700)
            directories.append((path, entry))
            continue
        if entry.kind == "symlink":
            os.symlink(entry.target, path)
        else:
            try:
                write_file(path, repository.pieces(entry.content))
            except Damaged as error:
                raise Damaged(f"{source.name}/{os.fsdecode(entry.path)}: {error}") from None
        set_metadata(path, entry)
    for path, entry in reversed(directories):
        set_metadata(path, entry)


def main(arguments):
    if len(arguments) != 3:
        print("usage: format_reader.py REPO STAMP OUT_DIR", file=sys.stderr)
        return 2
    root, stamp, out = arguments
    try:
        repository = Repository(root)
        sources = repository.manifest(stamp)
        os.makedirs(out, exist_ok=True)
        need(not os.listdir(out), f"{out} is not empty")
        for source in sources:
            if source.state < 2:
                extract(repository, source, out)
    except (Damaged, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    states = ("captured", "captured-raw", "absent", "not-requested", "changing")
    print(json.dumps({"stamp": stamp, "sources": {source.name: states[source.state] for source in sources}}))
    return 0


if __name__ == "__main__":
    sys.setrecursionlimit(10_000)
    sys.exit(main(sys.argv[1:]))

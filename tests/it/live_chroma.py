"""A service that ingests into chromadb while snapshots are taken, and the judge of what these hold.

    live_chroma.py serve STORE VECTORS DIMENSIONS    adds about 100 vectors a second to VECTORS until stdin ends
    live_chroma.py judge DIMENSIONS STORE ...        opens restored stores

`serve` prints "ready", and at the end what it did as JSON. Vectors come from their number alone and are added in order,
ten at a time; so a store is of one moment exactly if it holds the first n, each equal to what was added, and finds each
by itself. `judge` fails unless that holds of every store, and prints how many vectors each has.
"""

import json
import sys
import threading
import time

import chromadb
import numpy as np
from chromadb.config import Settings

BATCH = 10
PAUSE = 0.1
# Of 20,000 vectors that fill 384 dimensions, Chroma's search misses one in eight itself; of such that have few degrees of
# freedom, as embeddings have, none.
DEGREES_OF_FREEDOM = 16


def vectors(first, count, dimensions):
    # Whole numbers: sums of their products are exact, whatever is added first.
    directions = np.random.default_rng(dimensions).integers(-9, 10, size=(DEGREES_OF_FREEDOM, dimensions))
    own = [np.random.default_rng(n).integers(-999, 1000, size=DEGREES_OF_FREEDOM) for n in range(first, first + count)]
    return (np.stack(own) @ directions).astype("float32")


def name(number):
    return f"doc-{number:07d}"


def add(collection, first, count, dimensions):
    numbers = range(first, first + count)
    collection.add(
        ids=[name(n) for n in numbers],
        embeddings=vectors(first, count, dimensions),
        documents=[f"document {n}" for n in numbers],
    )


def open_store(store):
    return chromadb.PersistentClient(store, Settings(anonymized_telemetry=False))


def serve(store, count, dimensions):
    configuration = {"hnsw": {"batch_size": 100, "sync_threshold": 200}}
    collection = open_store(store).create_collection("documents", embedding_function=None, configuration=configuration)
    for first in range(0, count, 500):
        add(collection, first, min(500, count - first), dimensions)
    stop = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
    print("ready", flush=True)
    began, worst, before = time.monotonic(), 0.0, count
    while not stop.is_set():
        started = time.monotonic()
        add(collection, count, BATCH, dimensions)
        count += BATCH
        took = time.monotonic() - started
        worst = max(worst, took)
        stop.wait(max(0.0, PAUSE - took))
    seconds = time.monotonic() - began
    print(json.dumps({"added": count - before, "seconds": seconds, "worst_wait_s": worst}), flush=True)


def judge(dimensions, store):
    collection = open_store(store).get_collection("documents", embedding_function=None)
    everything = collection.get(include=["embeddings", "documents"])
    order = np.argsort(everything["ids"])
    ids = [everything["ids"][n] for n in order]
    expected = vectors(0, len(ids), dimensions)
    assert ids == [name(n) for n in range(len(ids))], f"{store}: these are not the first {len(ids)}"
    assert len(ids) == collection.count(), f"{store}: {collection.count()} counted, {len(ids)} found"
    assert [everything["documents"][n] for n in order] == [f"document {n}" for n in range(len(ids))]
    assert np.array_equal(np.asarray(everything["embeddings"], dtype="float32")[order], expected), f"{store}: vectors differ"
    # The last ones come from the queue or have just been persisted; the others from all over the index.
    numbers = sorted({*range(max(0, len(ids) - 300), len(ids)), *range(0, len(ids), 37)})
    found = collection.query(query_embeddings=expected[numbers], n_results=1)
    missed = [n for n, hits in zip(numbers, found["ids"]) if hits != [name(n)]]
    # The search is approximate.
    assert len(missed) <= len(numbers) // 50, f"{store}: {missed} are not found by themselves"
    return len(ids)


def main():
    action, *rest = sys.argv[1:]
    if action == "serve":
        serve(rest[0], int(rest[1]), int(rest[2]))
    else:
        print(json.dumps([judge(int(rest[0]), store) for store in rest[1:]]))


if __name__ == "__main__":
    main()

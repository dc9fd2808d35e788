"""What the test against a real Chroma does with chromadb: build | change | record STORE [RECORD].

`record` writes everything that a user of the collection can see: its count, all ids with documents and metadata, and
the nearest neighbours of 50 queries with their distances.
"""

import json
import sys

import chromadb
import numpy as np
from chromadb.config import Settings

DIMENSIONS = 64
VECTORS = 3000
QUERIES = 50
BATCH = 500


def vectors(seed, count):
    return np.random.default_rng(seed).normal(size=(count, DIMENSIONS)).astype("float32")


def entries(seed, first, count):
    numbers = range(first, first + count)
    return {
        "ids": [f"doc-{n:06d}" for n in numbers],
        "embeddings": vectors(seed, count),
        "documents": [f"document {n} of seed {seed}" for n in numbers],
        "metadatas": [{"project": f"p{n % 7:02d}", "at": n, "seed": seed} for n in numbers],
    }


def slices(batch):
    for start in range(0, len(batch["ids"]), BATCH):
        yield {key: values[start : start + BATCH] for key, values in batch.items()}


def build(client):
    collection = client.create_collection(
        "documents", embedding_function=None, configuration={"hnsw": {"batch_size": 50, "sync_threshold": 200}}
    )
    for part in slices(entries(1, 0, VECTORS)):
        collection.add(**part)


def change(client):
    collection = client.get_collection("documents", embedding_function=None)
    for part in slices(entries(2, VECTORS, 400)):
        collection.add(**part)
    collection.update(**entries(3, 100, 300))
    collection.delete(ids=[f"doc-{n:06d}" for n in range(900, 1200)])


def record(client, path):
    collection = client.get_collection("documents", embedding_function=None)
    everything = collection.get(include=["documents", "metadatas"])
    by_id = sorted(zip(everything["ids"], everything["documents"], everything["metadatas"]))
    found = collection.query(query_embeddings=vectors(99, QUERIES), n_results=10)
    result = {
        "count": collection.count(),
        "entries": by_id,
        "neighbours": found["ids"],
        "distances": [[round(float(d), 4) for d in row] for row in found["distances"]],
    }
    with open(path, "w", encoding="utf-8") as file:
        json.dump(result, file)


def main():
    action, store, *rest = sys.argv[1:]
    client = chromadb.PersistentClient(store, Settings(anonymized_telemetry=False))
    {"build": build, "change": change, "record": record}[action](client, *rest)


if __name__ == "__main__":
    main()

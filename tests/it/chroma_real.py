"""What the test against a real Chroma does with chromadb: build | change | record STORE [RECORD].

The store has a collection that was persisted, one that was queried before that, one that was never asked anything, an
empty one, one of a few long vectors, and the files of one that was dropped. `record` writes everything that a user can
see: of each collection its count, all ids with documents and metadata, and the nearest neighbours of 50 queries of the
large one with their distances.
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


def vectors(seed, count, dimensions=DIMENSIONS):
    return np.random.default_rng(seed).normal(size=(count, dimensions)).astype("float32")


def entries(seed, first, count, dimensions=DIMENSIONS):
    numbers = range(first, first + count)
    return {
        "ids": [f"doc-{n:06d}" for n in numbers],
        "embeddings": vectors(seed, count, dimensions),
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
    small = {"hnsw": {"batch_size": 5, "sync_threshold": 20}}
    queried = client.create_collection("queried", embedding_function=None)
    queried.add(**entries(11, 0, 5, 3))
    queried.query(query_embeddings=vectors(12, 1, 3), n_results=2)
    client.create_collection("never-asked", embedding_function=None).add(**entries(13, 0, 7, 8))
    client.create_collection("empty", embedding_function=None)
    client.create_collection("wide", embedding_function=None, configuration=small).add(**entries(14, 0, 50, 1536))
    client.create_collection("dropped", embedding_function=None, configuration=small).add(**entries(15, 0, 50, 16))
    client.delete_collection("dropped")


def change(client):
    collection = client.get_collection("documents", embedding_function=None)
    for part in slices(entries(2, VECTORS, 400)):
        collection.add(**part)
    collection.update(**entries(3, 100, 300))
    collection.delete(ids=[f"doc-{n:06d}" for n in range(900, 1200)])
    client.get_collection("wide", embedding_function=None).delete(ids=["doc-000007"])
    client.get_collection("never-asked", embedding_function=None).add(**entries(16, 100, 3, 8))


def listed(everything):
    return sorted(zip(everything["ids"], everything["documents"], everything["metadatas"]))


def others(client):
    for name in ["empty", "never-asked", "queried", "wide"]:
        collection = client.get_collection(name, embedding_function=None)
        everything = collection.get(include=["documents", "metadatas", "embeddings"])
        lengths = [float(sum(vector)) for vector in everything["embeddings"]]
        yield [name, collection.count(), listed(everything), sorted(round(length, 3) for length in lengths)]


def record(client, path):
    collection = client.get_collection("documents", embedding_function=None)
    everything = collection.get(include=["documents", "metadatas"])
    by_id = listed(everything)
    found = collection.query(query_embeddings=vectors(99, QUERIES), n_results=10)
    result = {
        "count": collection.count(),
        "entries": by_id,
        "neighbours": found["ids"],
        "others": list(others(client)),
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

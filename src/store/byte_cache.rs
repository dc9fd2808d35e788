//! A cache that is bounded by bytes: what was used least of late gives way.
//!
//! Invariant: the bytes of all that is kept are at most the limit, but the last item is always kept; what gives way is
//! handed to whoever brought the last one. (`lru` bounds items alone.)

use std::hash::Hash;

use lru::LruCache;

/// Items by key, with the bytes that each counts for.
#[derive(Debug)]
pub(super) struct ByteCache<K: Hash + Eq, V> {
    items: LruCache<K, Item<V>>,
    bytes: usize,
    limit: usize,
}

#[derive(Debug)]
struct Item<V> {
    value: V,
    bytes: usize,
}

impl<K: Hash + Eq, V> ByteCache<K, V> {
    /// An empty one for at most so many bytes, and one item at least.
    pub(super) fn new(limit: usize) -> Self {
        Self { items: LruCache::unbounded(), bytes: 0, limit }
    }

    /// An item, which counts as used now.
    pub(super) fn get(&mut self, key: &K) -> Option<&V> {
        self.items.get(key).map(|item| &item.value)
    }

    /// Keeps an item that counts for so many bytes, in place of one of the same key; returns what gives way to it, what
    /// was used least of late first.
    pub(super) fn put(&mut self, key: K, value: V, bytes: usize) -> Vec<(K, V)> {
        self.bytes += bytes;
        if let Some(before) = self.items.put(key, Item { value, bytes }) {
            self.bytes -= before.bytes;
        }
        let mut gone = Vec::new();
        while self.bytes > self.limit && self.items.len() > 1 {
            let Some((key, item)) = self.items.pop_lru() else { break };
            self.bytes -= item.bytes;
            gone.push((key, item.value));
        }
        gone
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.items.clear();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_kept_are_bounded_and_the_last_item_always_is() {
        let mut cache = ByteCache::new(100);
        assert!((0..10).all(|number| cache.put(number, number * 7, 10).is_empty()));
        assert_eq!(cache.get(&0), Some(&0), "it is used again");
        assert_eq!(cache.put(10, 70, 15), [(1, 7), (2, 14)]);
        assert_eq!([0, 1, 10].map(|key| cache.get(&key).copied()), [Some(0), None, Some(70)]);
        assert!(cache.put(10, 71, 20).is_empty(), "kept twice, it counts once");
        assert_eq!((cache.bytes, cache.items.len()), (100, 9));
        assert_eq!(cache.put(99, 1, 500).len(), 9);
        assert_eq!((cache.get(&99).copied(), cache.bytes), (Some(1), 500));
        cache.clear();
        assert_eq!((cache.get(&99).copied(), cache.bytes), (None, 0));
    }
}

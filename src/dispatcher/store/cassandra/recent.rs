//! A bounded memory of what was used lately.

use hashbrown::HashMap;
use std::hash::Hash;

/// Two halves: a full young one becomes the old one, and what the old one held and nobody asked for since is
/// forgotten.
#[derive(Debug)]
pub struct Recent<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    half: usize,
}

impl<K: Hash + Eq + Clone, V: Clone> Recent<K, V> {
    pub fn new(entries_max: usize) -> Recent<K, V> {
        Recent {
            young: HashMap::new(),
            old: HashMap::new(),
            half: entries_max / 2,
        }
    }

    pub fn put(&mut self, key: K, value: V) {
        if self.young.len() >= self.half && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }

    pub fn find(&mut self, key: &K) -> Option<V> {
        if let Some(value) = self.young.get(key) {
            return Some(value.clone());
        }
        let value = self.old.remove(key)?;
        self.put(key.clone(), value.clone());
        Some(value)
    }

    pub fn remove(&mut self, key: &K) {
        self.young.remove(key);
        self.old.remove(key);
    }

    pub fn clear(&mut self) {
        self.young.clear();
        self.old.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_bounded_and_what_is_used_stays() {
        let mut recent = Recent::new(100);
        for number in 0..1_000 {
            recent.put(number, ());
            assert!(recent.find(&0).is_some());
        }
        assert!(recent.young.len() + recent.old.len() <= 100);
        assert!(recent.find(&1).is_none());
        recent.remove(&999);
        assert!(recent.find(&999).is_none());
    }
}

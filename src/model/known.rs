//! What makes a search fast: values that are shared between states and hashed once, and a hash that is cheap without optimisation.

use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

/// A shared value that knows its hash.
#[derive(Debug)]
pub(super) struct Known<T> {
    value: Arc<T>,
    print: u64,
}

impl<T: Hash> Known<T> {
    pub(super) fn new(value: T) -> Self {
        let print = print(&value);
        Self { value: Arc::new(value), print }
    }

    /// Changes the value, for this holder only.
    pub(super) fn edit<R>(&mut self, change: impl FnOnce(&mut T) -> R) -> R
    where
        T: Clone,
    {
        let value = Arc::make_mut(&mut self.value);
        let answer = change(value);
        self.print = print(&*value);
        answer
    }
}

impl<T> Clone for Known<T> {
    fn clone(&self) -> Self {
        Self { value: self.value.clone(), print: self.print }
    }
}

impl<T> Deref for Known<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: PartialEq> PartialEq for Known<T> {
    fn eq(&self, other: &Self) -> bool {
        self.print == other.print && (Arc::ptr_eq(&self.value, &other.value) || self.value == other.value)
    }
}

impl<T: Eq> Eq for Known<T> {}

impl<T> Hash for Known<T> {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        hasher.write_u64(self.print);
    }
}

/// The hash of a value, in 64 bits.
pub(super) fn print(value: &impl Hash) -> u64 {
    let mut fold = Fold::default();
    value.hash(&mut fold);
    fold.finish()
}

/// For maps whose keys are hashes.
pub(super) type Folding = BuildHasherDefault<Fold>;

/// Each word is multiplied into 128 bits, which are folded.
#[derive(Default)]
pub(super) struct Fold(u64);

impl Fold {
    #[allow(clippy::cast_possible_truncation)] // both halves are kept
    fn word(&mut self, word: u64) {
        let mixed = u128::from(self.0.rotate_left(29) ^ word ^ 0x9e37_79b9_7f4a_7c15) * 0xd6e8_feb8_6659_fd93;
        self.0 = (mixed as u64) ^ ((mixed >> 64) as u64);
    }
}

impl Hasher for Fold {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.word(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, word: u8) {
        self.word(word.into());
    }

    fn write_u32(&mut self, word: u32) {
        self.word(word.into());
    }

    fn write_u64(&mut self, word: u64) {
        self.word(word);
    }

    fn write_usize(&mut self, word: usize) {
        self.word(word as u64);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

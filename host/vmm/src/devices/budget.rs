//! How long a queue is served before others on the device loop have their turn.

/// Chains at one wake-up.
const MAX_CHAINS: u32 = 256;
/// Bytes at one wake-up.
const MAX_BYTES: usize = 1 << 20;

/// What is left of one wake-up.
pub struct Budget {
    chains: u32,
    bytes: usize,
}

impl Budget {
    /// All of it.
    pub fn new() -> Self {
        Budget { chains: MAX_CHAINS, bytes: MAX_BYTES }
    }

    /// One chain, or what took as long, with `bytes` in it.
    pub fn spend(&mut self, bytes: usize) {
        self.chains = self.chains.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// Whether it is the others' turn.
    pub fn is_spent(&self) -> bool {
        self.chains == 0 || self.bytes == 0
    }
}

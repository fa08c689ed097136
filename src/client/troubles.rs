//! Why a mount waits: what was wrong with each server when it was last tried.

use std::{collections::BTreeMap, net::SocketAddr};

/// Addresses that are remembered: those of a credential, and where servers said the leader is.
const ADDRESSES_MAX: usize = 32;

#[derive(Debug, Default)]
pub(super) struct Troubles(BTreeMap<String, String>);

impl Troubles {
    /// The server, or the way to it, said what is wrong: a sentence that names it.
    pub(super) fn told(&mut self, address: &str, sentence: String) {
        if self.0.len() < ADDRESSES_MAX || self.0.contains_key(address) {
            self.0.insert(address.to_owned(), sentence);
        }
    }

    /// Nothing was heard in time. That says less than what was heard before.
    pub(super) fn silent(&mut self, address: &str) {
        if !self.0.contains_key(address) {
            let sentence = match address.parse::<SocketAddr>() {
                Ok(_) => format!("{address} does not answer; is the machine up and the port open?"),
                // A resolver may be slower than we wait for a server, and then the two cannot be told apart.
                Err(_) => format!(
                    "{address} does not answer, or its name is still being resolved; is the machine up, the port open and \
                     the name server there?"
                ),
            };
            self.told(address, sentence);
        }
    }

    /// The server is as it should be.
    pub(super) fn over(&mut self, address: &str) {
        self.0.remove(address);
    }

    pub(super) const fn by_address(&self) -> &BTreeMap<String, String> {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_outlives_silence_and_not_another_reason() {
        let mut troubles = Troubles::default();
        troubles.silent("a");
        assert!(troubles.by_address()["a"].contains("does not answer, or its name is still being resolved"));
        troubles.silent("10.0.0.1:7440");
        assert!(troubles.by_address()["10.0.0.1:7440"].contains("does not answer; "));
        troubles.told("a", "nothing listens at a".to_owned());
        troubles.silent("a");
        assert_eq!(troubles.by_address()["a"], "nothing listens at a");
        troubles.told("a", "a knows no leader".to_owned());
        assert_eq!(troubles.by_address()["a"], "a knows no leader");
        troubles.over("a");
        troubles.over("10.0.0.1:7440");
        assert!(troubles.by_address().is_empty());
    }

    #[test]
    fn what_servers_name_does_not_fill_the_memory() {
        let mut troubles = Troubles::default();
        for number in 0..1000 {
            troubles.silent(&format!("host{number}"));
        }
        assert_eq!(troubles.by_address().len(), ADDRESSES_MAX);
    }
}

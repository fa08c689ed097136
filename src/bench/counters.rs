//! What a phase cost: counters from the metrics pages of mounts and storage nodes.

use std::{
    io::{Read, Write},
    net::{TcpStream, ToSocketAddrs},
    time::Duration,
};

use super::BenchError;

/// Counters on the pages of mounts and storage nodes.
const UPCALLS: &str = "manyfs_fuse_upcalls_total";
const ENTRIES: &str = "manyfs_log_entries_total";
const SYNCS: [&str; 4] =
    ["manyfs_log_syncs_total", "manyfs_state_syncs_total", "manyfs_pack_syncs_total", "manyfs_directory_syncs_total"];

/// How long a metrics page may take.
const TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests of kernels to mounts; each of the three is absent where no page has it.
    pub upcalls: Option<u64>,
    /// Entries that reached the log; the largest of all nodes, as each node counts every entry.
    pub entries: Option<u64>,
    /// Syncs of log, state and packs, over all nodes.
    pub syncs: Option<u64>,
}

/// An HTTP address with a metrics page.
#[derive(Debug)]
pub struct MetricsSource {
    address: String,
}

impl Counters {
    /// Reads all pages once.
    ///
    /// # Errors
    /// `Metrics` names the address that did not answer with a page.
    pub fn read(sources: &[MetricsSource]) -> Result<Self, BenchError> {
        sources.iter().try_fold(Self::default(), |sum, source| {
            let page = source.page()?;
            Ok(Self {
                upcalls: either(sum.upcalls, total(&page, UPCALLS), |a, b| a + b),
                entries: either(sum.entries, total(&page, ENTRIES), u64::max),
                syncs: SYNCS.iter().fold(sum.syncs, |sum, name| either(sum, total(&page, name), |a, b| a + b)),
            })
        })
    }

    #[must_use]
    pub fn minus(&self, earlier: &Self) -> Self {
        self.with(earlier, u64::saturating_sub)
    }

    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        self.with(other, |a, b| a + b)
    }

    fn with(&self, other: &Self, both: fn(u64, u64) -> u64) -> Self {
        Self {
            upcalls: either(self.upcalls, other.upcalls, both),
            entries: either(self.entries, other.entries, both),
            syncs: either(self.syncs, other.syncs, both),
        }
    }
}

/// What both make together, or the one that is there.
fn either(one: Option<u64>, other: Option<u64>, both: fn(u64, u64) -> u64) -> Option<u64> {
    match (one, other) {
        (Some(one), Some(other)) => Some(both(one, other)),
        (one, other) => one.or(other),
    }
}

impl MetricsSource {
    #[must_use]
    pub fn new(address: &str) -> Self {
        Self { address: address.to_owned() }
    }

    fn page(&self) -> Result<String, BenchError> {
        let fail = |reason: String| BenchError::Metrics { address: self.address.clone(), reason };
        let to = self
            .address
            .to_socket_addrs()
            .map_err(|error| fail(error.to_string()))?
            .next()
            .ok_or_else(|| fail("the name has no address".to_owned()))?;
        let mut answer = String::new();
        let exchange = |answer: &mut String| {
            let mut stream = TcpStream::connect_timeout(&to, TIMEOUT)?;
            stream.set_read_timeout(Some(TIMEOUT))?;
            write!(stream, "GET /metrics HTTP/1.0\r\nHost: {}\r\n\r\n", self.address)?;
            stream.read_to_string(answer)
        };
        exchange(&mut answer).map_err(|error| fail(error.to_string()))?;
        match answer.split_once("\r\n\r\n") {
            Some((head, body)) if head.split(' ').nth(1) == Some("200") => Ok(body.to_owned()),
            _ => Err(fail(format!("expected a page, found {:?}", answer.lines().next().unwrap_or("nothing")))),
        }
    }
}

/// The sum of a counter over all its label sets; `None` on a page that has no such counter.
fn total(page: &str, name: &str) -> Option<u64> {
    let values = page
        .lines()
        .filter_map(|line| line.strip_prefix(name))
        .filter(|rest| rest.starts_with([' ', '{']))
        .filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok());
    // Where nothing was counted yet.
    let about = format!("# TYPE {} ", name.trim_end_matches("_total"));
    let zero = page.lines().any(|line| line.starts_with(&about)).then_some(0.0);
    values.fold(zero, |sum, value| Some(sum.unwrap_or(0.0) + value)).map(|sum| sum as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_sets_are_summed_and_other_names_left_out() {
        let page = "# TYPE manyfs_fuse_upcalls counter\nmanyfs_fuse_upcalls_total{kind=\"read\"} 3\n\
                    manyfs_fuse_upcalls_total{kind=\"write\"} 4\nmanyfs_fuse_upcalls_total_other 9\n# EOF\n";
        assert_eq!(total(page, UPCALLS), Some(7));
        assert_eq!(total("# TYPE manyfs_log_entries counter\n", ENTRIES), Some(0));
        // A mount writes no log: that is no count of 0.
        assert_eq!(total(page, ENTRIES), None);
    }
}

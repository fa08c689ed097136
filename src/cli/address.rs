//! Addresses as people write them.

use crate::limits::PORT_CLIENT;

/// `host:port` of a node's client service: the usual port where none is given.
pub(super) fn with_port(address: &str) -> Result<String, String> {
    let address = address.trim();
    let form = || format!("'{address}' is no address: write host or host:port");
    if address.is_empty() || address.contains(['/', ' ', '@']) {
        return Err(form());
    }
    if let Some(rest) = address.strip_prefix('[') {
        return match rest.split_once(']') {
            Some((_, "")) => Ok(format!("{address}:{PORT_CLIENT}")),
            Some((_, port)) if is_port(port.strip_prefix(':')) => Ok(address.to_owned()),
            _ => Err(form()),
        };
    }
    match address.split(':').count() {
        1 => Ok(format!("{address}:{PORT_CLIENT}")),
        2 if address.starts_with(':') || !is_port(address.rsplit(':').next()) => Err(form()),
        2 => Ok(address.to_owned()),
        // An IPv6 address without brackets has no port.
        _ => Ok(format!("[{address}]:{PORT_CLIENT}")),
    }
}

/// The part before the port of what `with_port` gives.
pub(super) fn host_of(address: &str) -> &str {
    address.rsplit_once(':').map_or(address, |(host, _)| host)
}

fn is_port(text: Option<&str>) -> bool {
    text.is_some_and(|text| text.parse::<u16>().is_ok_and(|port| port > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_port_is_the_usual_one() {
        let cases = [
            ("node1", "node1:7440"),
            ("node1:80", "node1:80"),
            (" 10.0.0.1 ", "10.0.0.1:7440"),
            ("[::1]", "[::1]:7440"),
            ("[::1]:9", "[::1]:9"),
            ("fd00::1", "[fd00::1]:7440"),
        ];
        for (written, meant) in cases {
            assert_eq!(with_port(written).as_deref(), Ok(meant));
        }
        assert_eq!(host_of("[::1]:9"), "[::1]");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in ["", " ", ":7440", "a:", "a:x", "a:70000", "a:0", "https://a", "[::1", "[::1]x", "a b"] {
            assert!(with_port(text).is_err(), "{text}");
        }
    }
}

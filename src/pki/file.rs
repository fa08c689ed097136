//! Reading and writing files that hold keys.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::Arc,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::PkiError;

/// The version of both file formats that this program writes. 2: credentials are for one founding and a volume's number.
pub(super) const VERSION: u32 = 2;

/// The one field of every future version that is read before all else.
#[derive(Deserialize)]
struct VersionOnly {
    version: u32,
}

/// `value` behind `heading` (comment lines).
pub(super) fn text_of(heading: &str, value: &impl Serialize) -> Result<String, PkiError> {
    let body = toml::to_string_pretty(value).map_err(|error| PkiError::Issue(error.to_string()))?;
    Ok(format!("{heading}\n{body}"))
}

/// Writes the text to a new file that only its owner can read, and syncs it.
pub(super) fn write_secret(path: &Path, text: &str) -> Result<(), PkiError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AlreadyExists => PkiError::Exists { path: path.to_owned() },
        _ => PkiError::Io { path: path.to_owned(), action: "written", source: Arc::new(source) },
    };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    if let Err(error) = written {
        // Half a secret is of no use to anyone and would be in the way of the next try.
        return Err(match fs::remove_file(path) {
            Ok(()) => failed(error),
            Err(_) => PkiError::Io { path: path.to_owned(), action: "written or removed", source: Arc::new(error) },
        });
    }
    Ok(())
}

/// Reads what `write_secret` wrote; `expected` names it ("a credential").
pub(super) fn read_secret<T: DeserializeOwned>(path: &Path, expected: &'static str) -> Result<T, PkiError> {
    let text = fs::read_to_string(path).map_err(|source| PkiError::Io {
        path: path.to_owned(),
        action: "read",
        source: Arc::new(source),
    })?;
    let form =
        |error: toml::de::Error| PkiError::Form { path: path.to_owned(), expected, found: error.message().to_owned() };
    let VersionOnly { version } = toml::from_str(&text).map_err(form)?;
    if version != VERSION {
        return Err(PkiError::Version { path: path.to_owned(), known: VERSION, found: version });
    }
    toml::from_str(&text).map_err(form)
}

/// A random number from the kernel, for identities that must never meet.
///
/// # Errors
/// `Random` where the kernel does not give any.
pub fn random() -> Result<u128, PkiError> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .map_err(|error| PkiError::Random(Arc::new(error)))?;
    Ok(u128::from_be_bytes(bytes))
}

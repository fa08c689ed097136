//! Names of directory entries and of extended attributes: bytes, checked once, cheap to copy.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::limits;

/// Why bytes are not a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("a name is 1 to {max} bytes long, this one is {found}", max = limits::NAME_BYTES_MAX)]
    Length { found: usize },
    #[error("a name holds neither '/' nor a zero byte")]
    Byte,
    #[error("'.' and '..' are not names of entries")]
    Dot,
}

/// The name of a directory entry: 1 to 255 bytes, any but `/` and zero, neither `.` nor `..`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<[u8]>);

impl Name {
    /// Checks `bytes` and keeps a copy of them.
    ///
    /// # Errors
    /// `Length`, `Byte` or `Dot` where the bytes cannot name an entry.
    pub fn new(bytes: &[u8]) -> Result<Self, NameError> {
        if bytes.is_empty() || bytes.len() > limits::NAME_BYTES_MAX {
            return Err(NameError::Length { found: bytes.len() });
        }
        if bytes.iter().any(|&byte| byte == b'/' || byte == 0) {
            return Err(NameError::Byte);
        }
        if bytes == b"." || bytes == b".." {
            return Err(NameError::Dot);
        }
        Ok(Self(bytes.into()))
    }

    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

const CAPABILITY: &[u8] = b"security.capability";

/// The name of an extended attribute: 1 to 255 bytes without a zero byte, its namespace prefix included.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct XattrName(Arc<[u8]>);

impl XattrName {
    /// Checks `bytes` and keeps a copy of them.
    ///
    /// # Errors
    /// `Length` or `Byte` where the bytes cannot name an attribute.
    pub fn new(bytes: &[u8]) -> Result<Self, NameError> {
        if bytes.is_empty() || bytes.len() > limits::NAME_BYTES_MAX {
            return Err(NameError::Length { found: bytes.len() });
        }
        if bytes.contains(&0) {
            return Err(NameError::Byte);
        }
        Ok(Self(bytes.into()))
    }

    /// That of what a program may do beyond its user (capabilities(7)); it goes when the file's content or owner changes.
    #[must_use]
    pub fn capability() -> Self {
        Self(CAPABILITY.into())
    }

    #[must_use]
    pub fn is_capability(&self) -> bool {
        *self.0 == *CAPABILITY
    }

    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

macro_rules! name_traits {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0.escape_ascii())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "\"{}\"", self.0.escape_ascii())
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_bytes(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let bytes: &[u8] = Deserialize::deserialize(deserializer)?;
                Self::new(bytes).map_err(de::Error::custom)
            }
        }
    };
}

name_traits!(Name);
name_traits!(XattrName);

//! Tables of counters: name, kind and what is counted stand in one place, from which the struct, the metrics and the JSON
//! are made. A new counter is one line here and one where it counts.

/// How a number moves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CounterKind {
    /// It only grows.
    Total,
    /// It is set.
    Gauge,
}

/// A struct of counters, each of the type `$cell`, and `table`, which gives each with its name, kind and help.
macro_rules! counters {
    (
        $(#[$about:meta])*
        pub struct $name:ident of $cell:ty { $($kind:ident $field:ident: $help:literal,)* }
    ) => {
        $(#[$about])*
        pub struct $name {
            $(#[doc = $help] pub $field: $cell,)*
        }

        impl $name {
            /// Each with its name, its kind and what it counts.
            pub fn table(
                &self,
            ) -> impl Iterator<Item = (&'static str, $crate::types::CounterKind, &'static str, &$cell)> {
                use $crate::types::CounterKind::*;
                [$((stringify!($field), $kind, $help, &self.$field)),*].into_iter()
            }
        }
    };
}

pub(crate) use counters;

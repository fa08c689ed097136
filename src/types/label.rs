//! Text that a mount says of itself, fit to be shown: it may come from anybody with a credential.

use std::fmt;

use crate::limits;

/// At most `limits::LABEL_BYTES_MAX` bytes, none of them a control character or one that changes how others are shown.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Label(String);

impl Label {
    /// What is not to be shown becomes `?`; of what is too long the end stays, which of a path says most.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let shown: Vec<char> = text.chars().rev().map(|c| if is_shown(c) { c } else { '?' }).collect();
        let mut bytes = 0;
        let fits = shown.iter().take_while(|c| {
            bytes += c.len_utf8();
            bytes <= limits::LABEL_BYTES_MAX
        });
        let fits = fits.count();
        Self(shown[..fits].iter().rev().collect())
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Not control characters, and none of Unicode's marks that turn the order of a line or break it (Cf, Zl, Zp).
fn is_shown(c: char) -> bool {
    !c.is_control()
        && !matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_path_keeps_its_end_and_nothing_moves_the_cursor() {
        assert_eq!(Label::new("/srv/wp content").as_str(), "/srv/wp content");
        assert_eq!(Label::new("a\x1b[2Jb\n\u{202e}c").as_str(), "a?[2Jb??c");
        let long = format!("/{}/end", "é".repeat(limits::LABEL_BYTES_MAX));
        let label = Label::new(&long);
        assert!(label.as_str().ends_with("/end") && label.as_str().len() <= limits::LABEL_BYTES_MAX);
    }

    proptest! {
        #[test]
        fn a_label_stays_as_it_is(text in any::<String>()) {
            let label = Label::new(&text);
            prop_assert!(label.as_str().len() <= limits::LABEL_BYTES_MAX);
            prop_assert!(!label.as_str().chars().any(char::is_control));
            prop_assert_eq!(Label::new(label.as_str()), label);
        }
    }
}

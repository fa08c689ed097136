//! The options of mount(8) that the kernel keeps for a mount: who may execute, what devices mean, whether it is writable.

use std::str::FromStr;

use nix::mount::MsFlags;

/// What the kernel is told of a mount. Without any option: no set-user-id programs, no devices, no access times.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct MountOptions(pub(super) MsFlags);

impl Default for MountOptions {
    fn default() -> Self {
        Self(MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOATIME)
    }
}

impl MountOptions {
    /// What mount(8) means when it names none: it leaves out "suid" and "dev", which are on unless they are ruled out.
    pub(super) const fn of_mount_command() -> Self {
        Self(MsFlags::MS_NOATIME)
    }

    /// Takes one option; `false` when it is none that the kernel keeps.
    pub(super) fn take(&mut self, option: &str) -> bool {
        let (flag, value) = match option {
            "ro" => (MsFlags::MS_RDONLY, true),
            "rw" => (MsFlags::MS_RDONLY, false),
            "nosuid" => (MsFlags::MS_NOSUID, true),
            "suid" => (MsFlags::MS_NOSUID, false),
            "nodev" => (MsFlags::MS_NODEV, true),
            "dev" => (MsFlags::MS_NODEV, false),
            "noexec" => (MsFlags::MS_NOEXEC, true),
            "exec" => (MsFlags::MS_NOEXEC, false),
            "sync" => (MsFlags::MS_SYNCHRONOUS, true),
            "async" => (MsFlags::MS_SYNCHRONOUS, false),
            // Reads never change access times here (README.md "Coherence"): these ask for what is so anyway, or cannot
            // be.
            "noatime" | "nodiratime" | "atime" | "diratime" | "relatime" | "norelatime" | "strictatime"
            | "nostrictatime" | "lazytime" | "nolazytime" => return true,
            // So is every change of the tree.
            "dirsync" => return true,
            // Both are on for every mount.
            "allow_other" | "default_permissions" | "defaults" => return true,
            _ => return false,
        };
        self.0.set(flag, value);
        true
    }

    /// The options that make it, as `--options` takes them.
    pub(super) fn to_list(self) -> String {
        let one_of = |flag, set: &'static str, unset| if self.0.contains(flag) { set } else { unset };
        [
            one_of(MsFlags::MS_RDONLY, "ro", "rw"),
            one_of(MsFlags::MS_NOSUID, "nosuid", "suid"),
            one_of(MsFlags::MS_NODEV, "nodev", "dev"),
            one_of(MsFlags::MS_NOEXEC, "noexec", "exec"),
            one_of(MsFlags::MS_SYNCHRONOUS, "sync", "async"),
        ]
        .join(",")
    }
}

impl FromStr for MountOptions {
    type Err = String;

    fn from_str(list: &str) -> Result<Self, String> {
        let mut options = Self::default();
        for option in list.split(',').filter(|option| !option.is_empty()) {
            if !options.take(option) {
                return Err(format!(
                    "'{option}' is none of ro, rw, nosuid, suid, nodev, dev, noexec, exec, sync, async, noatime"
                ));
            }
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_two_opposites_holds() {
        let options: MountOptions =
            "ro,noexec,,rw,suid,noatime,strictatime,allow_other,sync,async,dirsync".parse().expect("known");
        assert_eq!(options.0, MsFlags::MS_NODEV | MsFlags::MS_NOATIME | MsFlags::MS_NOEXEC);
        assert_eq!(options.to_list().parse(), Ok(options));
        assert_eq!("".parse(), Ok(MountOptions::default()));
    }

    #[test]
    fn what_is_unknown_is_named() {
        assert!("ro,compress".parse::<MountOptions>().expect_err("unknown").contains("'compress'"));
    }
}

//! The kernel command line.

use crate::layout;

/// What every guest gets (the kernel's `admin-guide/kernel-parameters`). `quiet` comes first: early parameters act one after the other, and
/// a console that starts before it prints a kilobyte at two exits a byte.
///
/// - `console`, `earlyprintk`: panics before the virtio console is up go to the early serial port; nothing else is printed (`quiet`).
/// - `reboot=k`: pulse the keyboard controller's reset line, which the monitor watches; `panic=-1`: do so at once after a panic.
/// - `tsc=reliable`, `no_timer_check`: KVM's clock needs no cross-checks; they are delay loops.
/// - `random.trust_cpu=on`: with virtio-rng behind it; without it, early users of randomness wait.
/// - `swiotlb=noforce`: a guest of 4 GiB or more would set 64 MiB aside for devices that cannot reach high memory; it has none.
/// - `dummy.numdummies=0`: no link `dummy0` that nobody asked for.
const BASE: &str = "quiet console=hvc0 earlyprintk=serial,ttyS0,115200 reboot=k panic=-1 \
    tsc=reliable no_timer_check random.trust_cpu=on swiotlb=noforce dummy.numdummies=0";

/// Why a command line is refused.
#[derive(Debug, thiserror::Error)]
pub enum CommandLineError {
    /// Longer than the kernel reads.
    #[error("the kernel command line is {len} bytes long, the kernel reads {max}; shorten the kernel arguments")]
    TooLong {
        /// Its length, bytes.
        len: usize,
        /// Most bytes.
        max: usize,
    },
    /// A NUL or another control character in it.
    #[error("the kernel arguments hold the character {0:?}, which is not allowed there")]
    Character(char),
}

/// A kernel command line in the making.
#[derive(Clone, Debug)]
pub struct CommandLine(String);

impl Default for CommandLine {
    fn default() -> Self {
        CommandLine(BASE.to_owned())
    }
}

impl CommandLine {
    /// Announces window `index`, whether it holds a device yet or not (`virtio_mmio.device=<size>@<address>:<irq>`). The
    /// guest numbers them in the order of the line: window N is its `virtio-mmio.N`.
    pub fn add_device(&mut self, index: usize) {
        let address = layout::mmio_address(index);
        let irq = layout::device_irq(index);
        self.0.push_str(&format!(" virtio_mmio.device=4K@{address:#x}:{irq}"));
    }

    /// Appends `arguments` as they are.
    ///
    /// # Errors
    /// [`CommandLineError::Character`] for control characters: a newline would end the line for some readers, a NUL for others.
    pub fn add_arguments(&mut self, arguments: &str) -> Result<(), CommandLineError> {
        if let Some(bad) = arguments.chars().find(|c| c.is_control()) {
            return Err(CommandLineError::Character(bad));
        }
        if !arguments.is_empty() {
            self.0.push(' ');
            self.0.push_str(arguments);
        }
        Ok(())
    }

    /// The line with its final NUL.
    ///
    /// # Errors
    /// [`CommandLineError::TooLong`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, CommandLineError> {
        let mut bytes = self.0.clone().into_bytes();
        bytes.push(0);
        if bytes.len() > layout::CMDLINE_MAX {
            return Err(CommandLineError::TooLong { len: bytes.len() - 1, max: layout::CMDLINE_MAX - 1 });
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_announced_with_their_window_and_line() {
        let mut line = CommandLine::default();
        line.add_device(0);
        line.add_device(1);
        let text = String::from_utf8(line.to_bytes().unwrap()).unwrap();
        assert!(text.ends_with(" virtio_mmio.device=4K@0xd0000000:5 virtio_mmio.device=4K@0xd0001000:6\0"), "{text}");
    }

    #[test]
    fn long_lines_and_control_characters_are_refused() {
        let mut line = CommandLine::default();
        assert!(matches!(line.add_arguments("a\nb"), Err(CommandLineError::Character('\n'))));
        line.add_arguments(&"x".repeat(layout::CMDLINE_MAX)).unwrap();
        assert!(matches!(line.to_bytes(), Err(CommandLineError::TooLong { .. })));
    }
}

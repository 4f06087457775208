//! The device in a virtio-mmio window: bound to its driver it is a network interface of the guest's own network namespace.

use std::fs;
use std::io;
use std::path::PathBuf;

const DRIVER: &str = "/sys/bus/platform/drivers/virtio-mmio";
const DEVICES: &str = "/sys/bus/platform/devices";

/// A network interface where the kernel has put it.
pub struct Device {
    /// Its number.
    pub index: u32,
    /// Its address.
    pub mac: [u8; 6],
}

/// Gives the window to its driver; when this returns, the interface is there, or whatever else the device is.
pub fn bind(window: u32) -> io::Result<()> {
    fs::write(format!("{DRIVER}/bind"), name(window))
}

/// Takes the window from its driver. The interface vanishes, wherever it is by now.
pub fn unbind(window: u32) -> io::Result<()> {
    fs::write(format!("{DRIVER}/unbind"), name(window))
}

/// The interface of a window that was just bound.
pub fn find(window: u32) -> io::Result<Device> {
    let directory = format!("{DEVICES}/{}", name(window)).into();
    let virtio = child(directory, "virtio")?;
    let interface = child(virtio.join("net"), "")?;
    let read = |file: &str| fs::read_to_string(interface.join(file));
    let index = read("ifindex")?.trim_end().parse().map_err(io::Error::other)?;
    let mac = mac(read("address")?.trim_end()).ok_or(io::ErrorKind::InvalidData)?;
    Ok(Device { index, mac })
}

fn name(window: u32) -> String {
    format!("virtio-mmio.{window}")
}

/// The one directory whose name begins so.
fn child(directory: PathBuf, prefix: &str) -> io::Result<PathBuf> {
    let mut entries = fs::read_dir(directory)?.flatten();
    let found = entries.find(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
    found.map(|entry| entry.path()).ok_or(io::ErrorKind::NotFound.into())
}

fn mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Option<Vec<u8>> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    bytes?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        assert_eq!(mac("02:42:0a:5a:00:02"), Some([0x02, 0x42, 0x0a, 0x5a, 0x00, 0x02]));
        assert_eq!(mac("02:42:0a:5a:00"), None);
        assert_eq!(mac("02:42:0a:5a:00:zz"), None);
        assert_eq!(mac(""), None);
    }

    #[test]
    fn a_window_without_a_device_has_no_interface() {
        assert!(find(4_000_000_000).is_err());
    }

    #[test]
    fn directories_are_found_by_how_their_names_begin() {
        let directory = tempfile::tempdir().unwrap();
        let found = directory.path().join("virtio7");
        fs::create_dir(directory.path().join("power")).unwrap();
        fs::create_dir(&found).unwrap();
        assert_eq!(child(directory.path().to_owned(), "virtio").unwrap(), found);
        assert!(child(found, "").is_err());
    }
}

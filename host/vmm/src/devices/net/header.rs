//! What stands before each frame, struct virtio_net_hdr_v1 (virtio 1.2, 5.1.6), and the features that say what may
//! stand there.

use virtio_bindings::virtio_net as net;

/// VIRTIO_NET_F_CSUM: the device completes checksums.
pub(super) const F_CSUM: u64 = 1 << net::VIRTIO_NET_F_CSUM;
/// VIRTIO_NET_F_GUEST_CSUM: the driver takes frames whose checksum is not complete.
pub(super) const F_GUEST_CSUM: u64 = 1 << net::VIRTIO_NET_F_GUEST_CSUM;
/// VIRTIO_NET_F_MAC: the configuration space has an address.
pub(super) const F_MAC: u64 = 1 << net::VIRTIO_NET_F_MAC;
/// VIRTIO_NET_F_GUEST_TSO4: the driver takes TCP over IPv4 in segments larger than a frame.
pub(super) const F_GUEST_TSO4: u64 = 1 << net::VIRTIO_NET_F_GUEST_TSO4;
/// VIRTIO_NET_F_GUEST_TSO6: the same over IPv6.
pub(super) const F_GUEST_TSO6: u64 = 1 << net::VIRTIO_NET_F_GUEST_TSO6;
/// VIRTIO_NET_F_GUEST_ECN: also with congestion marks.
pub(super) const F_GUEST_ECN: u64 = 1 << net::VIRTIO_NET_F_GUEST_ECN;
/// VIRTIO_NET_F_HOST_TSO4: the device takes such segments.
pub(super) const F_HOST_TSO4: u64 = 1 << net::VIRTIO_NET_F_HOST_TSO4;
/// VIRTIO_NET_F_HOST_TSO6.
pub(super) const F_HOST_TSO6: u64 = 1 << net::VIRTIO_NET_F_HOST_TSO6;
/// VIRTIO_NET_F_HOST_ECN.
pub(super) const F_HOST_ECN: u64 = 1 << net::VIRTIO_NET_F_HOST_ECN;
/// VIRTIO_NET_F_MRG_RXBUF: a received frame may take several chains.
pub(super) const F_MRG_RXBUF: u64 = 1 << net::VIRTIO_NET_F_MRG_RXBUF;
/// VIRTIO_NET_F_CTRL_VQ: there is a control queue.
pub(super) const F_CTRL_VQ: u64 = 1 << net::VIRTIO_NET_F_CTRL_VQ;
/// VIRTIO_NET_F_MQ: there are several queue pairs.
pub(super) const F_MQ: u64 = 1 << net::VIRTIO_NET_F_MQ;

/// Bytes of the header.
pub(super) const HEADER_LEN: usize = 12;
/// The shortest frame with its header: Ethernet addresses and type.
pub(super) const FRAME_MIN: usize = HEADER_LEN + 14;
/// The longest: an IP packet of 64 KiB, which segmentation offload makes, with a VLAN tag.
pub(super) const FRAME_MAX: usize = HEADER_LEN + 14 + 4 + 65536;

const FLAGS: usize = 0;
const GSO_TYPE: usize = 1;
const NUM_BUFFERS: usize = 10;

const NEEDS_CSUM: u8 = net::VIRTIO_NET_HDR_F_NEEDS_CSUM as u8;
const GSO_NONE: u8 = net::VIRTIO_NET_HDR_GSO_NONE as u8;
const GSO_TCPV4: u8 = net::VIRTIO_NET_HDR_GSO_TCPV4 as u8;
const GSO_TCPV6: u8 = net::VIRTIO_NET_HDR_GSO_TCPV6 as u8;
const GSO_ECN: u8 = net::VIRTIO_NET_HDR_GSO_ECN as u8;

/// Makes the header of a frame from the tap one that a driver with `features` may see (5.1.6.4.1). False when it cannot
/// be: the frame leaves to the driver what it did not take on. The tap makes such frames only in the moment before it
/// knows the features.
pub(super) fn adapt(frame: &mut [u8], features: u64) -> bool {
    let Some(gso_type) = frame.get(GSO_TYPE).copied() else { return false };
    let Some(flags) = frame.get_mut(FLAGS) else { return false };
    if features & F_GUEST_CSUM == 0 {
        if *flags & NEEDS_CSUM != 0 {
            return false;
        }
        *flags = 0;
    }
    let needed = match gso_type & !GSO_ECN {
        GSO_NONE if gso_type == GSO_NONE => 0,
        GSO_TCPV4 => F_GUEST_TSO4,
        GSO_TCPV6 => F_GUEST_TSO6,
        _ => return false,
    };
    let ecn = if gso_type & GSO_ECN != 0 { F_GUEST_ECN } else { 0 };
    !features & (needed | ecn) == 0
}

/// Says in the header of `frame` how many chains it takes: 1 without F_MRG_RXBUF (5.1.6.4.1).
pub(super) fn set_num_buffers(frame: &mut [u8], count: u16) {
    if let Some(field) = frame.get_mut(NUM_BUFFERS..HEADER_LEN) {
        field.copy_from_slice(&count.to_le_bytes());
    }
}

/// What the tap may leave to a driver with `features`: the argument of TUNSETOFFLOAD. The kernel knows segmentation
/// only together with checksums, and marks only together with segmentation; so does 5.1.3.1, but a driver need not keep
/// to it.
pub(super) fn tap_offloads(features: u64) -> u32 {
    if features & F_GUEST_CSUM == 0 {
        return 0;
    }
    let flag = |feature, flag| if features & feature != 0 { flag } else { 0 };
    let segments = flag(F_GUEST_TSO4, libc::TUN_F_TSO4) | flag(F_GUEST_TSO6, libc::TUN_F_TSO6);
    let marks = if segments != 0 { flag(F_GUEST_ECN, libc::TUN_F_TSO_ECN) } else { 0 };
    libc::TUN_F_CSUM | segments | marks
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u64 = F_GUEST_CSUM | F_GUEST_TSO4 | F_GUEST_TSO6 | F_GUEST_ECN;

    fn adapted(flags: u8, gso_type: u8, features: u64) -> Option<u8> {
        let mut frame = [0; FRAME_MIN];
        frame[..2].copy_from_slice(&[flags, gso_type]);
        adapt(&mut frame, features).then_some(frame[0])
    }

    #[test]
    fn frames_say_only_what_the_driver_understands() {
        assert_eq!(adapted(1, GSO_TCPV4 | GSO_ECN, ALL), Some(1));
        assert_eq!(adapted(1, GSO_TCPV6, ALL & !F_GUEST_ECN), Some(1));
        assert_eq!(adapted(2, 0, 0), Some(0), "a flag that only informs is left away");
        assert_eq!(adapted(1, 0, ALL & !F_GUEST_CSUM), None);
        assert_eq!(adapted(0, GSO_TCPV4, ALL & !F_GUEST_TSO4), None);
        assert_eq!(adapted(0, GSO_TCPV6, ALL & !F_GUEST_TSO6), None);
        assert_eq!(adapted(0, GSO_TCPV4 | GSO_ECN, ALL & !F_GUEST_ECN), None);
        for unknown in [GSO_ECN, 2, 3, 5, 0x7f] {
            assert_eq!(adapted(0, unknown, u64::MAX), None, "{unknown}");
        }
        assert!(!adapt(&mut [], ALL) && !adapt(&mut [0], ALL));
    }

    #[test]
    fn the_tap_is_told_what_it_can_be_told() {
        assert_eq!(tap_offloads(0), 0);
        assert_eq!(tap_offloads(ALL), 0xf);
        assert_eq!(tap_offloads(ALL & !F_GUEST_CSUM), 0);
        assert_eq!(tap_offloads(F_GUEST_CSUM | F_GUEST_ECN), libc::TUN_F_CSUM);
        assert_eq!(tap_offloads(F_GUEST_CSUM | F_GUEST_TSO6), libc::TUN_F_CSUM | libc::TUN_F_TSO6);
    }

    #[test]
    fn num_buffers_is_the_last_field() {
        let mut frame = [0xff; FRAME_MIN];
        set_num_buffers(&mut frame, 0x0102);
        assert_eq!(frame[9..13], [0xff, 2, 1, 0xff]);
        set_num_buffers(&mut frame[..11], 0);
    }
}

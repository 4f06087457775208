//! One FUSE request: from a descriptor chain to the file server and back.

use std::io::Write;
use std::mem::size_of;
use std::panic::{AssertUnwindSafe, catch_unwind};

use virtio_queue::DescriptorChain;
use virtiofsd::descriptor_utils::{Reader, Writer};
use virtiofsd::fuse::{InHeader, Opcode, OutHeader};
use vm_memory::ByteValued;

use super::server::FileServer;
use crate::memory::GuestMemory;

/// Answers the request in `chain`. Returns the number of bytes written into it; 0 for requests without an answer and for what
/// is no request at all.
pub fn answer(server: &FileServer, chain: DescriptorChain<&GuestMemory>, memory: &GuestMemory) -> u32 {
    let Ok(reader) = Reader::new(memory, chain.clone()) else { return 0 };
    let Ok(writer) = Writer::new(memory, chain.clone()) else { return 0 };
    let Ok(header) = reader.clone().read_obj::<InHeader>() else { return 0 };
    // The server splits the answer's header off the writer without asking whether it is that long.
    if wants_answer(header.opcode) && writer.available_bytes() < size_of::<OutHeader>() {
        return 0;
    }
    let handled = catch_unwind(AssertUnwindSafe(|| server.handle_message(header, reader, writer)));
    match handled {
        Ok(Ok(written)) => u32::try_from(written).unwrap_or(0),
        // A request that does not decode, or one that met a defect in the server: the guest gets an I/O error, others go on.
        Ok(Err(_)) | Err(_) => refuse(header, chain, memory),
    }
}

fn wants_answer(opcode: u32) -> bool {
    !matches!(
        Opcode::try_from(opcode),
        Ok(Opcode::Forget | Opcode::BatchForget | Opcode::Interrupt | Opcode::Destroy | Opcode::NotifyReply)
    )
}

fn refuse(header: InHeader, chain: DescriptorChain<&GuestMemory>, memory: &GuestMemory) -> u32 {
    if !wants_answer(header.opcode) {
        return 0;
    }
    let out = OutHeader { len: size_of::<OutHeader>() as u32, error: -libc::EIO, unique: header.unique };
    let Ok(mut writer) = Writer::new(memory, chain) else { return 0 };
    writer.write_all(out.as_slice()).map_or(0, |()| out.len)
}

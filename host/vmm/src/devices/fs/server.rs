//! The file server: virtiofsd's, with files that have no name ([`TmpFiles`]) and what is only said to be done ([`Replay`]) served in front of it.

use std::fs::File;

use virtiofsd::descriptor_utils::{Reader, Writer};
use virtiofsd::fuse::{AttrOut, CopyfilerangeIn, InHeader, LinkIn, Opcode};
use virtiofsd::passthrough::PassthroughFs;
use virtiofsd::server::Server;
use vm_memory::ByteValued;

use super::replay::{self, Answer, Replay, ReplayUids};
use super::tmpfile::{self, TmpFiles};

/// Requests that may concern files without a name though their node is one of virtiofsd's: bit n for opcode n.
const WATCHED: u64 = 1 << Opcode::TmpFile as u64
    | 1 << Opcode::Link as u64
    | 1 << Opcode::CopyFileRange as u64
    | 1 << Opcode::BatchForget as u64
    | 1 << Opcode::Destroy as u64;

/// Answers FUSE requests.
pub struct FileServer {
    passthrough: Server<PassthroughFs>,
    tmpfiles: TmpFiles,
    replay: Replay,
}

impl FileServer {
    /// Serves `fs`, and at most `tmpfiles_max` open files without a name. `proc_self_fd` is /proc/self/fd. Requests of the users `replay`
    /// are only said to be done.
    ///
    /// # Errors
    /// When memory for requests between the two cannot be mapped.
    pub fn new(
        fs: PassthroughFs,
        proc_self_fd: File,
        tmpfiles_max: usize,
        replay: ReplayUids,
    ) -> std::io::Result<Self> {
        let tmpfiles = TmpFiles::new(proc_self_fd, tmpfiles_max)?;
        Ok(FileServer { passthrough: Server::new(fs), tmpfiles, replay: Replay::new(replay) })
    }

    /// Answers the request whose header `reader` begins with. Returns the answer's length.
    ///
    /// # Errors
    /// When the request does not decode or the answer does not fit.
    pub fn handle_message(&self, header: InHeader, reader: Reader, writer: Writer) -> virtiofsd::Result<usize> {
        if header.opcode == Opcode::Init as u32 {
            return self.tmpfiles.begin(&self.passthrough, header, reader, writer);
        }
        if let Some(answer) = self.replay.answer(&header, &reader) {
            return self.say(&header, writer, answer);
        }
        if (header.nodeid >= tmpfile::FIRST_NODE || watched(header.opcode)) && self.is_tmpfiles(&header, &reader) {
            return self.tmpfiles.answer(&self.passthrough, header, reader, writer);
        }
        // The type parameter stands for a vhost-user back channel, which there is none of.
        self.passthrough.handle_message::<()>(reader, writer, None)
    }

    fn say(&self, header: &InHeader, writer: Writer, answer: Answer) -> virtiofsd::Result<usize> {
        let done = match answer {
            Answer::Nothing => return Ok(0),
            Answer::Done(body) => Ok(body),
            Answer::Failed(errno) => Err(errno),
            Answer::Attributes(time) => self.tmpfiles.attributes_of(&self.passthrough, header.nodeid).map(|mut out| {
                if let Some((seconds, nanoseconds)) = time {
                    (out.attr.mtime, out.attr.mtimensec) = (seconds, nanoseconds);
                }
                AttrOut { attr_valid: 0, attr_valid_nsec: 0, ..out }.as_slice().to_vec()
            }),
        };
        replay::write(header, writer, done.as_deref().map_err(|errno| *errno))
    }

    /// Closes all files without a name. The other ones are closed by the next FUSE_INIT.
    pub fn reset(&self) {
        self.tmpfiles.clear();
    }

    /// Whether [`TmpFiles`] answers this request; it also hears of those that it must know of but does not answer.
    fn is_tmpfiles(&self, header: &InHeader, reader: &Reader) -> bool {
        match Opcode::try_from(header.opcode) {
            Ok(Opcode::Destroy) => {
                self.tmpfiles.clear();
                false
            }
            Ok(Opcode::BatchForget) => {
                // virtiofsd passes over nodes that it does not know.
                self.tmpfiles.batch_forget(reader.clone());
                false
            }
            Ok(Opcode::TmpFile) => true,
            Ok(Opcode::Link) => body::<LinkIn>(reader).is_some_and(|link| link.oldnodeid >= tmpfile::FIRST_NODE),
            Ok(Opcode::CopyFileRange) => {
                header.nodeid >= tmpfile::FIRST_NODE
                    || body::<CopyfilerangeIn>(reader).is_some_and(|copy| copy.nodeid_out >= tmpfile::FIRST_NODE)
            }
            _ => header.nodeid >= tmpfile::FIRST_NODE,
        }
    }
}

fn watched(opcode: u32) -> bool {
    WATCHED.checked_shr(opcode).is_some_and(|bits| bits & 1 != 0)
}

fn body<T: ByteValued>(reader: &Reader) -> Option<T> {
    let mut reader = reader.clone();
    reader.read_obj::<InHeader>().ok()?;
    reader.read_obj().ok()
}

//! What a request says, as far as it can be believed.

use std::ffi::CString;
use std::mem::size_of;

use rustix::io::Errno;
use virtiofsd::descriptor_utils::Reader;
use virtiofsd::fuse::{CreateIn, ExtHeader, ExtType, InHeader, SuppGroups};
use virtiofsd::soft_idmap::{HostGid, HostUid, Id};
use vm_memory::ByteValued;

/// NAME_MAX and XATTR_NAME_MAX, with the NUL.
const NAME_MAX: usize = 256;
/// XATTR_SIZE_MAX.
pub const XATTR_MAX: usize = 1 << 16;
/// NGROUPS_MAX.
const GROUPS_MAX: usize = 1 << 16;

/// A request past its header. The guest can change its memory at any time: each part is read once.
pub struct Request<'a> {
    /// Its header.
    pub header: InHeader,
    /// The rest: only as far as `left` goes is there anything to read.
    pub reader: Reader<'a>,
    left: usize,
}

/// A file to be made, and by whom.
pub struct Creation {
    /// open(2)'s flags.
    pub flags: u32,
    /// Permission bits.
    pub mode: u32,
    /// The caller's umask.
    pub umask: u32,
    /// The caller.
    pub uid: HostUid,
    /// The caller's group.
    pub gid: HostGid,
    /// The caller's other groups that matter.
    pub groups: Vec<HostGid>,
    /// Whether the guest would have said which groups matter.
    pub groups_known: bool,
}

impl<'a> Request<'a> {
    /// The request that `reader` holds.
    ///
    /// # Errors
    /// EINVAL when it is shorter than its header says the header is.
    pub fn new(header: InHeader, mut reader: Reader<'a>) -> Result<Self, Errno> {
        reader.read_obj::<InHeader>().map_err(|_| Errno::INVAL)?;
        let left = (header.len as usize).checked_sub(size_of::<InHeader>()).ok_or(Errno::INVAL)?;
        Ok(Request { header, reader, left })
    }

    /// The next part.
    ///
    /// # Errors
    /// EINVAL when there is no such.
    pub fn take<T: ByteValued>(&mut self) -> Result<T, Errno> {
        self.left = self.left.checked_sub(size_of::<T>()).ok_or(Errno::INVAL)?;
        self.reader.read_obj().map_err(|_| Errno::INVAL)
    }

    /// All that is left, if not more than `max`; `too_long` otherwise.
    fn rest(&mut self, max: usize, too_long: Errno) -> Result<Vec<u8>, Errno> {
        let len = std::mem::take(&mut self.left);
        if len > max {
            return Err(too_long);
        }
        let mut rest = vec![0; len];
        std::io::Read::read_exact(&mut self.reader, &mut rest).map_err(|_| Errno::INVAL)?;
        Ok(rest)
    }

    /// What is left, as the name of a new file.
    ///
    /// # Errors
    /// ENAMETOOLONG, or EINVAL for what is no name.
    pub fn file_name(&mut self) -> Result<CString, Errno> {
        let name = self.rest(NAME_MAX, Errno::NAMETOOLONG)?;
        let name = CString::from_vec_with_nul(name).map_err(|_| Errno::INVAL)?;
        match name.to_bytes() {
            b"" | b"." | b".." => Err(Errno::INVAL),
            bytes if bytes.contains(&b'/') => Err(Errno::INVAL),
            _ => Ok(name),
        }
    }

    /// What is left, as the name of an extended attribute.
    ///
    /// # Errors
    /// ERANGE when it is too long, or EINVAL.
    pub fn xattr_name(&mut self) -> Result<CString, Errno> {
        CString::from_vec_with_nul(self.rest(NAME_MAX, Errno::RANGE)?).map_err(|_| Errno::INVAL)
    }

    /// What is left, as an extended attribute's name and value.
    ///
    /// # Errors
    /// E2BIG when the value is too long, or EINVAL.
    pub fn xattr(&mut self) -> Result<(CString, Vec<u8>), Errno> {
        let mut name = self.rest(NAME_MAX + XATTR_MAX, Errno::TOOBIG)?;
        let end = name.iter().position(|byte| *byte == 0).ok_or(Errno::INVAL)? + 1;
        let value = name.split_off(end);
        Ok((CString::from_vec_with_nul(name).map_err(|_| Errno::INVAL)?, value))
    }

    /// The body of a FUSE_TMPFILE: struct fuse_create_in, a name that says nothing, and extensions, of which `groups` says whether
    /// the guest has been told that it may send them.
    ///
    /// # Errors
    /// E2BIG or EINVAL.
    pub fn creation(mut self, groups: bool) -> Result<Creation, Errno> {
        let create: CreateIn = self.take()?;
        let max = NAME_MAX + size_of::<ExtHeader>() + size_of::<SuppGroups>() + GROUPS_MAX * size_of::<u32>() + 8;
        let rest = self.rest(max, Errno::TOOBIG)?;
        let name = rest.iter().position(|byte| *byte == 0).ok_or(Errno::INVAL)? + 1;
        let extensions = if groups { rest.get(name..).unwrap_or_default() } else { &[] };
        Ok(Creation {
            flags: create.flags,
            mode: create.mode,
            umask: create.umask,
            uid: HostUid::from(self.header.uid.into_inner()),
            gid: HostGid::from(self.header.gid.into_inner()),
            groups: supplementary_groups(extensions)?,
            groups_known: groups,
        })
    }
}

/// The groups in a request's extensions. There is no other kind of extension that the guest could have been told to send.
fn supplementary_groups(mut extensions: &[u8]) -> Result<Vec<HostGid>, Errno> {
    let mut groups = Vec::new();
    while !extensions.is_empty() {
        let (header, _) = split::<ExtHeader>(extensions)?;
        let (extension, others) = extensions.split_at_checked(header.size as usize).ok_or(Errno::INVAL)?;
        let (_, payload) = split::<ExtHeader>(extension)?;
        let (count, mut ids) = split::<SuppGroups>(payload)?;
        if !matches!(ExtType::try_from(header.ext_type), Ok(ExtType::SupGroups)) || !groups.is_empty() {
            return Err(Errno::INVAL);
        }
        for _ in 0..count.nr_groups {
            // Ends with the extension, however large a count it claims.
            let (id, more) = split::<u32>(ids)?;
            groups.push(HostGid::from(id));
            ids = more;
        }
        extensions = others;
    }
    Ok(groups)
}

fn split<T: ByteValued + Default>(bytes: &[u8]) -> Result<(T, &[u8]), Errno> {
    let (head, tail) = bytes.split_at_checked(size_of::<T>()).ok_or(Errno::INVAL)?;
    let mut object = T::default();
    object.as_mut_slice().copy_from_slice(head);
    Ok((object, tail))
}

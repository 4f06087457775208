use super::*;

fn parsed(list: &str) -> MountOptions {
    parse(&list.split(',').map(str::to_owned).collect::<Vec<_>>()).unwrap()
}

#[test]
fn flags_and_data_are_told_apart() {
    let options = parsed("nosuid,noexec,ro,mode=755,size=65536k");
    assert_eq!(options.flags, MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::RDONLY);
    assert_eq!(options.data, ["mode=755", "size=65536k"]);
    assert!(!options.bind);
}

#[test]
fn later_options_undo_earlier_ones() {
    let options = parsed("ro,rw,noexec,exec,nodev");
    assert_eq!(options.flags, MountFlags::NODEV);
    assert_eq!(options.attr.set, NODEV);
    assert_eq!(options.attr.clear, RDONLY | NOEXEC);
}

#[test]
fn only_what_is_asked_for_changes_on_a_bind() {
    let options = parsed("rbind,ro");
    assert!(options.bind && options.recursive);
    assert_eq!((options.attr.set, options.attr.clear), (RDONLY, 0));
    assert_eq!(options.recursive_attr, MountAttr::default());
}

#[test]
fn recursive_variants_are_their_own() {
    let options = parsed("rbind,rro,rnosuid,rnoatime");
    assert_eq!(options.recursive_attr.set, RDONLY | NOSUID | NOATIME);
    assert_eq!(options.recursive_attr.clear, ATIME);
    assert_eq!(options.attr, MountAttr::default());
    assert_eq!(options.flags, MountFlags::empty());
    assert_eq!(parsed("rrw").recursive_attr.clear, RDONLY);
}

#[test]
fn access_times_exclude_each_other() {
    let attr = parsed("noatime,strictatime").attr;
    assert_eq!((attr.set & ATIME, attr.clear & ATIME), (STRICTATIME, ATIME));
}

#[test]
fn propagation_and_relatime_are_not_mistaken() {
    let options = parsed("relatime,rprivate,shared");
    assert_eq!(options.flags, MountFlags::RELATIME);
    use MountPropagationFlags as P;
    assert_eq!(options.propagation, [P::PRIVATE | P::REC, P::SHARED]);
}

#[test]
fn options_of_ours_are_no_data() {
    let options = parsed("remount,ridmap,tmpcopyup,acl,noacl");
    assert!(options.remount && options.copy_up && options.data.is_empty());
    assert_eq!((options.id_map, options.flags), (Some(true), MountFlags::empty()));
    assert!(matches!(parse(&["a\0b".into()]), Err(Error::ZeroByte(_))));
}

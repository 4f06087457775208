//! User namespace mappings: what the parent writes, and what an id inside is outside.

use oci_spec::runtime::LinuxIdMapping;

/// The text of /proc/PID/uid_map or gid_map.
pub fn map_text(mappings: &[LinuxIdMapping]) -> String {
    mappings.iter().map(|m| format!("{} {} {}\n", m.container_id(), m.host_id(), m.size())).collect()
}

/// The id in the guest's own user namespace. Without mappings they are the same.
pub fn outside(mappings: Option<&[LinuxIdMapping]>, id: u32) -> Option<u32> {
    let Some(mappings) = mappings.filter(|m| !m.is_empty()) else { return Some(id) };
    mappings.iter().find_map(|m| {
        let offset = id.checked_sub(m.container_id()).filter(|offset| *offset < m.size())?;
        m.host_id().checked_add(offset)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_mapped() {
        let json = r#"[{"containerID":0,"hostID":1000,"size":10},{"containerID":100,"hostID":5,"size":1}]"#;
        let mappings: Vec<LinuxIdMapping> = serde_json::from_str(json).unwrap();
        assert_eq!(map_text(&mappings), "0 1000 10\n100 5 1\n");
        assert_eq!(outside(Some(&mappings), 0), Some(1000));
        assert_eq!(outside(Some(&mappings), 9), Some(1009));
        assert_eq!(outside(Some(&mappings), 10), None);
        assert_eq!(outside(Some(&mappings), 100), Some(5));
        assert_eq!(outside(None, 7), Some(7));
    }
}

//! How errors become sentences.

pub use agent_protocol::Plain;

/// Text from a guest, made safe to show: control characters, which could drive the reader's terminal, become spaces.
pub fn shown(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>().trim_end().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_text_cannot_drive_the_terminal() {
        assert_eq!(shown("a\x1b[2Jb\r\n"), "a [2Jb");
    }
}

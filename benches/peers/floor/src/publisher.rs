//! Whoever sends notifications over one connection: `PUBLISH\n`, then for each a line `USER BYTES\n` (or `all BYTES\n`)
//! and as many bytes of text.

pub const ALL: &str = "all";
const GREETING: &[u8] = b"PUBLISH\n";

pub struct Publisher {
    pub slot: usize,
    /// What came and was not sent yet; from `at` on.
    bytes: Vec<u8>,
    at: usize,
}

impl Publisher {
    /// `None`: whoever begins like that is none.
    pub fn greeted(slot: usize, bytes: &[u8]) -> Option<Publisher> {
        bytes.starts_with(GREETING).then(|| Publisher {
            slot,
            bytes: Vec::new(),
            at: 0,
        })
    }

    pub fn arrived(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        if self.bytes.starts_with(GREETING) {
            self.at = GREETING.len();
        }
    }

    /// The next one that is whole: to whom, and what.
    pub fn next(&mut self) -> Option<(&str, &str)> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().position(|&byte| byte == b'\n')?;
        let (user, length) = std::str::from_utf8(&rest[..end]).ok()?.split_once(' ')?;
        let text = rest[end + 1..].get(..length.parse().ok()?)?;
        self.at += end + 1 + text.len();
        Some((user, std::str::from_utf8(text).ok()?))
    }

    /// What was given out is forgotten.
    pub fn done(&mut self) {
        self.bytes.drain(..std::mem::take(&mut self.at));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notifications_are_whole_however_they_come_in_pieces() {
        let all = b"PUBLISH\n7 5\nhelloall 2\nhi";
        for cut in GREETING.len()..all.len() {
            let (first, second) = all.split_at(cut);
            let mut publisher = Publisher::greeted(1, first).unwrap();
            let mut got = Vec::new();
            for piece in [first, second] {
                publisher.arrived(piece);
                while let Some((user, text)) = publisher.next() {
                    got.push(format!("{user}:{text}"));
                }
                publisher.done();
            }
            assert_eq!(got, ["7:hello", "all:hi"], "{cut}");
        }
        assert!(Publisher::greeted(1, b"GET / HTTP/1.1").is_none());
    }
}

//! The one table of close codes: each says what the client should do, whatever it is connected by. A
//! WebSocket ends with a close frame; an event stream has none, so it ends with an event that says the same
//! ([`super::sse::last_event`]), and a refused token with a body that does ([`super::answer::Answer`]).

/// 1001, 1012 and 4000–4499 come back (in the advertised slot); 4500–4999 don't.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseCode {
    Normal,
    GoingAway,
    ProtocolError,
    UnsupportedData,
    InvalidPayload,
    TooBig,
    Restart,
    /// No `auth` within the limit.
    AuthTimeout,
    /// The token is not good at this time: come back with a fresh one.
    TokenExpired,
    /// Nothing heard for 90 s.
    Dead,
    /// It did not read for 20 s.
    TooSlow,
    RateLimited,
    /// The process can't go on with this connection.
    Internal,
    /// The token is not valid: don't come back with it.
    BadToken,
    /// An `auth` for another user.
    UserChanged,
    /// An operator ended it.
    Disconnected,
}

impl CloseCode {
    pub fn code(self) -> u16 {
        match self {
            CloseCode::Normal => 1000,
            CloseCode::GoingAway => 1001,
            CloseCode::ProtocolError => 1002,
            CloseCode::UnsupportedData => 1003,
            CloseCode::InvalidPayload => 1007,
            CloseCode::TooBig => 1009,
            CloseCode::Restart => 1012,
            CloseCode::AuthTimeout => 4401,
            CloseCode::TokenExpired => 4403,
            CloseCode::Dead => 4404,
            CloseCode::TooSlow => 4408,
            CloseCode::RateLimited => 4429,
            CloseCode::Internal => 4499,
            CloseCode::BadToken => 4501,
            CloseCode::UserChanged => 4503,
            CloseCode::Disconnected => 4510,
        }
    }

    /// Whether a client should come back after it.
    pub fn comes_back(self) -> bool {
        comes_back(self.code())
    }
}

/// The same of any code: a gateway of another version may have given one that is not known here.
pub fn comes_back(code: u16) -> bool {
    matches!(code, 1001 | 1012 | 4000..=4499)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn a_code_of_ours_may_be_sent_and_says_whether_to_come_back() {
        use CloseCode::*;
        let back = [
            GoingAway,
            Restart,
            AuthTimeout,
            TokenExpired,
            Dead,
            TooSlow,
            RateLimited,
            Internal,
        ];
        let stay = [
            Normal,
            ProtocolError,
            UnsupportedData,
            InvalidPayload,
            TooBig,
            BadToken,
            UserChanged,
            Disconnected,
        ];
        let mut documented = documented();
        for (codes, comes_back) in [(back, true), (stay, false)] {
            for code in codes {
                assert_eq!(code.comes_back(), comes_back, "{code:?}");
                let wire = tungstenite::protocol::frame::coding::CloseCode::from(code.code());
                assert!(wire.is_allowed(), "{code:?}");
                // 1000 answers the client's own close.
                if code != Normal {
                    let row = documented.remove(&code.code());
                    assert_eq!(row, Some(comes_back), "{code:?}");
                }
            }
        }
        assert!(documented.is_empty(), "only in the README: {documented:?}");
    }

    /// What the README's table tells a client: code, and whether to come back after it.
    fn documented() -> BTreeMap<u16, bool> {
        let table = include_str!("../../README.md").lines();
        let table = table.skip_while(|line| !line.starts_with("| close code"));
        let rows = table.skip(2).take_while(|line| line.starts_with('|'));
        let mut codes = BTreeMap::new();
        for row in rows {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            for code in cells[1].split(", ") {
                codes.insert(code.parse().expect(row), cells[3].starts_with("yes"));
            }
        }
        codes
    }
}

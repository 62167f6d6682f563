//! Server-sent events: out of chunks if the answer is chunked, then event by event.

/// A longer event is refused.
const EVENT_BYTES_MAX: usize = 16 << 20;
const CHUNK_BYTES_MAX: u32 = 16 << 20;

/// The stream can't be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadStream(pub &'static str);

/// Takes the chunk framing off, wherever the bytes are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// Not chunked: until the server closes.
    Plain,
    /// Before a chunk's size line; what was read of the size.
    Size(u32),
    /// Behind the size, before the line's end (chunk extensions are passed over).
    SizeLine(u32),
    /// So many bytes of the chunk to come.
    Data(u32),
    /// Behind the data, before its line's end.
    DataEnd,
    Ended,
}

impl Body {
    pub fn new(chunked: bool) -> Body {
        if chunked { Body::Size(0) } else { Body::Plain }
    }

    /// Adds the payload in `bytes` to `out`.
    pub fn decode(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) -> Result<(), BadStream> {
        while let Some((&byte, rest)) = bytes.split_first() {
            match *self {
                Body::Plain => {
                    out.extend_from_slice(bytes);
                    return Ok(());
                }
                Body::Data(left) => {
                    let (data, rest) = bytes.split_at((left as usize).min(bytes.len()));
                    out.extend_from_slice(data);
                    bytes = rest;
                    *self = match left - data.len() as u32 {
                        0 => Body::DataEnd,
                        left => Body::Data(left),
                    };
                    continue;
                }
                Body::Size(size) => *self = size_digit(size, byte)?,
                Body::SizeLine(0) if byte == b'\n' => *self = Body::Ended,
                Body::SizeLine(size) if byte == b'\n' => *self = Body::Data(size),
                Body::DataEnd if byte == b'\n' => *self = Body::Size(0),
                Body::DataEnd if byte != b'\r' => return Err(BadStream("chunk end")),
                Body::SizeLine(_) | Body::DataEnd => {}
                Body::Ended => return Ok(()),
            }
            bytes = rest;
        }
        Ok(())
    }
}

fn size_digit(size: u32, byte: u8) -> Result<Body, BadStream> {
    match char::from(byte).to_digit(16) {
        Some(digit) if size <= CHUNK_BYTES_MAX => Ok(Body::Size(size * 16 + digit)),
        None if matches!(byte, b'\r' | b';') => Ok(Body::SizeLine(size)),
        _ => Err(BadStream("chunk size")),
    }
}

/// One event.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Event<'a> {
    pub data: &'a str,
    pub id: Option<&'a str>,
    pub retry_ms: Option<u64>,
}

/// Reads the event at the start of `bytes` and says how long it is with its blank line; `None` while it
/// is not whole. Herald writes `data` in one line.
pub fn parse(bytes: &[u8]) -> Result<Option<(Event<'_>, usize)>, BadStream> {
    let Some(end) = bytes.windows(2).position(|two| two == b"\n\n") else {
        return match bytes.len() {
            0..=EVENT_BYTES_MAX => Ok(None),
            _ => Err(BadStream("event too long")),
        };
    };
    let text = std::str::from_utf8(&bytes[..end]).map_err(|_| BadStream("not UTF-8"))?;
    let mut event = Event::default();
    for line in text.split('\n') {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" if !event.data.is_empty() => return Err(BadStream("data in two lines")),
            "data" => event.data = value,
            "id" => event.id = Some(value),
            "retry" => event.retry_ms = value.parse().ok(),
            // "event" repeats the type; an empty field is a comment: the heartbeat.
            _ => {}
        }
    }
    Ok(Some((event, end + 2)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_read_when_it_is_whole() {
        let bytes = b": alive\n\nevent: x\nid: s=4\ndata: {\"a\":1}\n\nretry: 9\n\n";
        assert_eq!(parse(&bytes[..5]), Ok(None));
        let (comment, length) = parse(bytes).unwrap().unwrap();
        assert_eq!((comment, length), (Event::default(), 9));
        let (event, more) = parse(&bytes[length..]).unwrap().unwrap();
        assert_eq!((event.data, event.id), ("{\"a\":1}", Some("s=4")));
        let (retry, _) = parse(&bytes[length + more..]).unwrap().unwrap();
        assert_eq!(retry.retry_ms, Some(9));
    }

    #[test]
    fn chunks_are_taken_off_wherever_they_are_cut() {
        let stream = b"3\r\nabc\r\n1;x=y\r\nd\r\n0\r\n\r\n";
        for cut in 0..stream.len() {
            let (mut body, mut out) = (Body::new(true), Vec::new());
            body.decode(&stream[..cut], &mut out).unwrap();
            body.decode(&stream[cut..], &mut out).unwrap();
            assert_eq!(
                (&out[..], body),
                (&b"abcd"[..], Body::Ended),
                "cut at {cut}"
            );
        }
        let mut out = Vec::new();
        assert!(Body::new(true).decode(b"zz\r\n", &mut out).is_err());
    }
}

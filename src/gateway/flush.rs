//! How bytes leave: what waits in a session goes out in one `writev` after another until nothing waits or
//! the kernel takes no more; then the set tells when it does.

use super::{context::Context, wire::Wire};
use crate::proto::session::Session;
use smallvec::SmallVec;
use std::io::{self, IoSlice};

/// System calls for one connection before the others have their turn.
const WRITES_PER_TURN: usize = 16;

/// How a flush ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flushed {
    /// Nothing waits.
    All,
    /// The kernel takes no more: an edge will tell.
    Blocked,
    /// More could leave; the others first.
    Turn,
}

/// What became of the items is in the context's actions.
pub(super) fn flush(
    wire: &mut Wire,
    session: &mut Session,
    context: &mut Context,
) -> io::Result<Flushed> {
    for _ in 0..WRITES_PER_TURN {
        let (offered, written) = {
            let mut slices = SmallVec::new();
            session.gather(context.now, &mut slices, &mut context.actions);
            let vectors: SmallVec<[IoSlice; 16]> = slices.iter().map(|s| IoSlice::new(s)).collect();
            let offered: usize = slices.iter().map(|slice| slice.len()).sum();
            if offered == 0 {
                return Ok(Flushed::All);
            }
            (offered, wire.send(&vectors, &mut context.channels)?)
        };
        context.stats.writes += 1;
        context.stats.sent_bytes += written as u64;
        session.advance(
            written,
            context.now,
            &context.settings.session,
            &mut context.actions,
        );
        if written < offered {
            context.stats.blocked += 1;
            return Ok(Flushed::Blocked);
        }
    }
    Ok(Flushed::Turn)
}

/// A direct write of one frame; 0 when the kernel takes nothing now.
pub(super) fn write(wire: &mut Wire, bytes: &[u8], context: &mut Context) -> io::Result<usize> {
    let written = wire.send(&[IoSlice::new(bytes)], &mut context.channels)?;
    context.stats.writes += 1;
    context.stats.sent_bytes += written as u64;
    if written < bytes.len() {
        context.stats.blocked += 1;
    }
    Ok(written)
}

//! Whether a client may be missing something it can't see, and which sync ends that.
//!
//! A row missed at the tail of a stream shows only when a successor arrives. So whatever may have been
//! missed is noted here, and only a complete sync that was *asked for afterwards* vouches for it: one
//! that was on its way may have read the store before.

/// Three bytes of every connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct CatchUp {
    /// Syncs asked and not answered.
    pending: u8,
    /// How many of those were asked before something was missed.
    stale: u8,
    behind: bool,
}

impl CatchUp {
    pub fn is_behind(self) -> bool {
        self.behind
    }

    /// A sync was asked for and not answered.
    pub fn is_pending(self) -> bool {
        self.pending > 0
    }

    /// A sync was asked for.
    pub fn asked(&mut self) {
        self.pending = self.pending.saturating_add(1);
    }

    /// Something may have been missed just now.
    pub fn missed(&mut self) {
        self.behind = true;
        self.stale = self.pending;
    }

    /// A sync was answered; `complete` is recovered and no more to come. Answers may change places, so
    /// as many complete ones as are stale are passed by: too many syncs rather than one too few.
    pub fn answered(&mut self, complete: bool) {
        self.pending = self.pending.saturating_sub(1);
        match complete {
            true if self.stale > 0 => self.stale -= 1,
            true => self.behind = false,
            false => {}
        }
    }

    /// What was asked so long ago that its answer must be lost is not waited for.
    pub fn give_up_pending(&mut self) {
        self.pending = 0;
        self.stale = 0;
    }
}

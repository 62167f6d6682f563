//! A small world: one user, one stream of a few rows, a router, two gateways, a registry, a store, and a
//! client that follows the cursor rule. Every step is atomic; which comes next is anybody's choice.
//!
//! What decides in the product decides here: the client's [`ContiguousCursor`] and the session's
//! [`CatchUp`] are the real ones. The rest is reduced to the order of its effects.

mod choices;
mod effects;

use herald::{
    position::{ContiguousCursor, Position},
    proto::session::CatchUp,
};

/// The orders the design demands. A test breaks one and expects to be told.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Router: store, then look up. Broadcast: store, then produce.
    pub store_before_look_up: bool,
    /// Gateway at connect: await the registry write, then read the store.
    pub register_before_reading: bool,
    /// A lapsed registration: register anew, then count the connection as behind.
    pub register_before_behind: bool,
    /// Only a sync asked for after something was missed vouches for it.
    pub only_later_syncs_vouch: bool,
    /// What was dropped unsent counts as missed.
    pub shed_is_missed: bool,
    /// A read that may lack a row says `recovered:false` and claims no range.
    pub honest_recovered: bool,
    /// A gateway notes the end of `broadcast` before it accepts clients.
    pub note_before_accepting: bool,
}

pub const SOUND: Rules = Rules {
    store_before_look_up: true,
    register_before_reading: true,
    register_before_behind: true,
    only_later_syncs_vouch: true,
    shed_is_missed: true,
    honest_recovered: true,
    note_before_accepting: true,
};

/// What happens, and how much of it may go wrong.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    pub rules: Rules,
    /// Rows per router batch; a batch is stored at once.
    pub batches: &'static [u8],
    /// `all`: no registry, every gateway that reads along gets every record.
    pub broadcast: bool,
    /// Gateway of the first connection and of the one after it.
    pub gateways: [usize; 2],
    /// (older, newer): rows of one collapse key.
    pub superseded: Option<(u8, u8)>,
    /// (mark, row): the row `mark` says that `row` was read.
    pub read_mark: Option<(u8, u8)>,
    /// Rows of one sync answer.
    pub page: u8,
    pub sheds: u8,
    pub registry_losses: u8,
    pub stale_reads: u8,
    pub repeats: u8,
}

impl Scenario {
    pub fn rows(&self) -> u8 {
        self.batches.iter().sum()
    }

    fn is_superseded(&self, row: u8, stored: u8) -> bool {
        self.superseded
            .is_some_and(|(older, newer)| row == older && newer <= stored)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Stage {
    #[default]
    Start,
    /// Stored (or, with the rule broken, looked up).
    Half,
    /// Both, and this many rows of the batch are pushed.
    Pushing(u8),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Router {
    batch: usize,
    stage: Stage,
    routes: [bool; 2],
}

/// A record on its way to a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Record {
    row: u8,
    gateway: usize,
    answered: [bool; 2],
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Link {
    #[default]
    Absent,
    Open,
    Gone,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Lapse {
    #[default]
    None,
    /// The registry forgot the entry and the gateway is to find out.
    Lost,
    /// The first of (register anew, count as behind) is done.
    Half,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Sync {
    Asked { after: u8 },
    Read(Answer),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Answer {
    items: Rows,
    range: (u8, u8),
    recovered: bool,
    has_more: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Connection {
    link: Link,
    registered: bool,
    unregistered: bool,
    lapse: Lapse,
    sync: Option<Sync>,
    greeted: bool,
    catch_up: CatchUp,
    told_behind: bool,
}

/// A set of rows in one byte: a state is copied and compared a million times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Rows(u8);

impl Rows {
    fn insert(&mut self, row: u8) {
        self.0 |= 1 << row;
    }

    fn contains(self, row: u8) -> bool {
        self.0 & (1 << row) != 0
    }

    fn iter(self) -> impl Iterator<Item = u8> {
        (0..8).filter(move |&row| self.contains(row))
    }
}

impl FromIterator<u8> for Rows {
    fn from_iter<I: IntoIterator<Item = u8>>(rows: I) -> Rows {
        let mut set = Rows::default();
        rows.into_iter().for_each(|row| set.insert(row));
        set
    }
}

/// What the client knows, by its own rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Client {
    cursor: ContiguousCursor,
    received: Rows,
    read: Rows,
    asked_to_sync: bool,
}

/// The whole world at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    stored: u8,
    router: Router,
    /// Lanes, topics and hops may change the order, so it tells nothing: kept sorted.
    records: Vec<Record>,
    /// Per gateway the connection whose stamp the entry carries.
    registry: [Option<usize>; 2],
    /// The gateway reads `broadcast` from before here.
    noted: [bool; 2],
    connections: [Connection; 2],
    client: Client,
    sheds: u8,
    registry_losses: u8,
    stale_reads: u8,
    repeats: u8,
}

/// One atomic step. Those that need not happen are marked by [`Step::is_optional`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Store,
    LookUp,
    Push,
    Deliver(u8, usize),
    DeliverTwice(u8, usize),
    Shed(u8, usize),
    Collapse(u8),
    NoteBroadcastEnd(usize),
    Open(usize),
    Register(usize),
    ReadStore(usize),
    ReadStoreStale(usize),
    Answer(usize),
    TellBehind(usize),
    AskSync(usize),
    Disconnect,
    Unregister,
    LoseRegistration(usize),
    RegisterAnew(usize),
    CountAsBehind(usize),
}

impl Step {
    pub fn is_optional(self) -> bool {
        matches!(
            self,
            Step::DeliverTwice(..)
                | Step::Shed(..)
                | Step::Collapse(_)
                | Step::ReadStoreStale(_)
                | Step::Disconnect
                | Step::LoseRegistration(_)
        )
    }
}

fn p(row: u8) -> Position {
    Position::new(1, u64::from(row)).expect("a small row")
}

/// Row 0 is where the client begins: everything before it was received.
fn row_of(position: Position) -> u8 {
    position.offset() as u8
}

impl State {
    pub fn start() -> State {
        State {
            client: Client {
                cursor: ContiguousCursor::starting_at(p(0)),
                ..Client::default()
            },
            ..State::default()
        }
    }

    /// A cursor never passes over a row that neither arrived nor was superseded.
    pub fn tells_no_lie(&self, scenario: &Scenario) -> bool {
        let at = row_of(self.client.cursor.position());
        let known = (1..=at).all(|row| {
            self.client.received.contains(row) || scenario.is_superseded(row, self.stored)
        });
        let marked = scenario
            .read_mark
            .is_none_or(|(mark, row)| at < mark || self.client.read.contains(row));
        known && marked && at <= self.stored
    }

    /// With nothing left to happen, the client is connected and has everything.
    pub fn has_everything(&self, scenario: &Scenario) -> bool {
        let connected = (0..2).any(|index| {
            self.connections[index].link == Link::Open && self.connections[index].greeted
        });
        connected && row_of(self.client.cursor.position()) == scenario.rows()
    }

    /// The client misses something, and nothing it knows says so: no hole, and nobody told it.
    pub fn has_unseen_hole(&self, scenario: &Scenario) -> bool {
        row_of(self.client.cursor.position()) < scenario.rows() && !self.client.cursor.has_hole()
    }
}

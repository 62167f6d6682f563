//! Who is connected to this host: user → connections, and whether the registry knows.
//!
//! Invariants:
//! * an entry lives from the first connection until the second scan that finds it without one; a user who
//!   comes back in between needs no registry write;
//! * who is gone stays in the table, up to [`limits::GONE_USERS`], until the registry has removed the entry: with the
//!   registry away nobody else would;
//! * the stamp is given at 0→1 and is what the registry's entry holds, so that a late removal or a
//!   late confirmation of an older life changes nothing;
//! * `registered` is set only after the registry confirmed the write under the present epoch.

use crate::{
    gateway::mailbox::ConnId, ids::UserId, limits, memory::contract, registry::Registration,
};
use hashbrown::{DefaultHashBuilder, HashMap};
use parking_lot::Mutex;
use smallvec::SmallVec;
use std::{
    hash::BuildHasher,
    sync::atomic::{AtomicU64, Ordering},
};

/// Sub-tables, each with its own lock: a scan or a growth holds up 1/64 of the users only.
pub const PARTS: usize = contract::TABLE_PARTS;

/// Flags in the top bits of the stamp word.
///
/// The registry holds this stamp under the present epoch.
const REGISTERED: u64 = 1 << 63;
/// The write failed or was undone: the next scan does it again.
const OWED: u64 = 1 << 62;
/// A scan found the user gone; the next one gives it up for removal.
const GONE: u64 = 1 << 61;
/// No connection: `first` means nothing.
const NOBODY: u64 = 1 << 60;
/// Further connections are in [`Part::others`].
const MORE: u64 = 1 << 59;
/// The registry was asked to remove the entry, and did not answer.
const REMOVING: u64 = 1 << 58;
const FLAGS: u64 = REGISTERED | OWED | GONE | NOBODY | MORE | REMOVING;

struct Entry {
    first: ConnId,
    stamp_and_flags: u64,
}

impl Entry {
    fn stamp(&self) -> u64 {
        self.stamp_and_flags & !FLAGS
    }

    fn is(&self, flag: u64) -> bool {
        self.stamp_and_flags & flag != 0
    }

    fn set(&mut self, flag: u64) {
        self.stamp_and_flags |= flag;
    }

    fn clear(&mut self, flag: u64) {
        self.stamp_and_flags &= !flag;
    }

    fn registration(&self, user: &UserId) -> Registration {
        Registration {
            user: user.clone(),
            stamp: self.stamp(),
        }
    }
}

// There are half a million of these. With the control byte of the hash table, a load of 7/16 at worst
// and the shared text of the id, a connected user costs 70 to 110 bytes.
const _: () = assert!(size_of::<(UserId, Entry)>() + 1 == contract::TABLE_SLOT_BYTES);

type ByUser<T> = HashMap<UserId, T>;

/// The users of one lock.
#[derive(Default)]
struct Part {
    users: ByUser<Entry>,
    /// Connections of a user beyond the first: most have one, and pay for one.
    others: ByUser<Vec<ConnId>>,
    /// Entries of the users that are [`REMOVING`].
    removing: usize,
}

impl Part {
    fn with_hasher(hasher: &DefaultHashBuilder) -> Part {
        Part {
            users: HashMap::with_hasher(hasher.clone()),
            others: HashMap::with_hasher(hasher.clone()),
            removing: 0,
        }
    }

    /// False when it is known already.
    fn add(&mut self, user: &UserId, conn: ConnId, new_stamp: impl Fn() -> u64) -> bool {
        let entry = self.users.entry(user.clone()).or_insert_with(|| Entry {
            first: conn,
            stamp_and_flags: new_stamp() | NOBODY,
        });
        entry.clear(GONE);
        if entry.is(NOBODY) {
            entry.first = conn;
            entry.clear(NOBODY);
            if entry.is(REMOVING) {
                // A removal that got no answer may still be carried out: of the older stamp.
                entry.stamp_and_flags = new_stamp();
                self.removing -= 1;
            }
            return true;
        }
        if entry.first == conn {
            return false;
        }
        entry.set(MORE);
        let others = self.others.entry(user.clone()).or_default();
        let is_new = !others.contains(&conn);
        if is_new {
            others.push(conn);
        }
        is_new
    }

    /// False when it is not known.
    fn remove(&mut self, user: &UserId, conn: ConnId) -> bool {
        let Some(entry) = self.users.get_mut(user) else {
            return false;
        };
        if entry.is(NOBODY) {
            return false;
        }
        let Some(others) = self.others.get_mut(user).filter(|_| entry.is(MORE)) else {
            let is_known = entry.first == conn;
            if is_known {
                entry.set(NOBODY);
            }
            return is_known;
        };
        if entry.first == conn {
            entry.first = others.swap_remove(0);
        } else if let Some(index) = others.iter().position(|known| *known == conn) {
            others.swap_remove(index);
        } else {
            return false;
        }
        if others.is_empty() {
            self.others.remove(user);
            entry.clear(MORE);
        }
        true
    }

    fn connections(&self, user: &UserId, entry: &Entry) -> impl Iterator<Item = ConnId> {
        connections(user, entry, &self.others)
    }
}

fn connections<'a>(
    user: &UserId,
    entry: &Entry,
    others: &'a ByUser<Vec<ConnId>>,
) -> impl Iterator<Item = ConnId> + use<'a> {
    let first = (!entry.is(NOBODY)).then_some(entry.first);
    let others = match entry.is(MORE) {
        true => others.get(user).map(Vec::as_slice),
        false => None,
    };
    first
        .into_iter()
        .chain(others.into_iter().flatten().copied())
}

/// What opening a connection means for the registry.
#[derive(Debug, PartialEq, Eq)]
pub struct Opened {
    pub registration: Registration,
    /// The registry knows: nothing to write or to wait for.
    pub registered: bool,
}

/// What a scan of one part found to do.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// Users to register again.
    pub owed: Vec<Registration>,
    /// Users whose entry was taken out: to be unregistered.
    pub gone: Vec<Registration>,
}

pub struct Table {
    parts: Box<[Mutex<Part>]>,
    hasher: DefaultHashBuilder,
    stamps: AtomicU64,
    connections: AtomicU64,
}

impl Default for Table {
    fn default() -> Self {
        let hasher = DefaultHashBuilder::default();
        let part = |_| Mutex::new(Part::with_hasher(&hasher));
        Table {
            parts: (0..PARTS).map(part).collect(),
            hasher,
            stamps: AtomicU64::new(1),
            connections: AtomicU64::new(0),
        }
    }
}

impl Table {
    pub fn open(&self, user: &UserId, conn: ConnId) -> Opened {
        let mut part = self.part(user).lock();
        if part.add(user, conn, || self.stamps.fetch_add(1, Ordering::Relaxed)) {
            self.connections.fetch_add(1, Ordering::Relaxed);
        }
        let entry = &part.users[user];
        Opened {
            registration: entry.registration(user),
            registered: entry.is(REGISTERED),
        }
    }

    pub fn close(&self, user: &UserId, conn: ConnId) {
        if self.part(user).lock().remove(user, conn) {
            self.connections.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Connections of a user here, none when there are none.
    pub fn connections_of(&self, user: &UserId) -> SmallVec<[ConnId; 2]> {
        let part = self.part(user).lock();
        let entry = part.users.get(user);
        entry.map_or_else(SmallVec::new, |entry| {
            part.connections(user, entry).collect()
        })
    }

    /// The user's entry, when the registry does not hold it yet.
    pub fn unregistered(&self, user: &UserId) -> Option<Registration> {
        let part = self.part(user).lock();
        let entry = part.users.get(user);
        let entry = entry.filter(|entry| !entry.is(REGISTERED))?;
        Some(entry.registration(user))
    }

    pub fn is_registered(&self, user: &UserId) -> bool {
        let part = self.part(user).lock();
        let entry = part.users.get(user);
        entry.is_some_and(|entry| entry.is(REGISTERED))
    }

    /// The registry confirmed these under the present epoch. Answers the connections of those it was
    /// owed: meanwhile a router took their users for absent.
    pub fn confirm(&self, registrations: &[Registration]) -> Vec<ConnId> {
        let mut missed = Vec::new();
        self.each(registrations, |user, entry, others| {
            if entry.is(OWED) {
                missed.extend(connections(user, entry, others));
            }
            entry.set(REGISTERED);
            entry.clear(OWED);
        });
        missed
    }

    /// The registry does not hold these: the next scan brings them up.
    pub fn owe(&self, registrations: &[Registration]) {
        self.each(registrations, |_, entry, _| {
            entry.clear(REGISTERED);
            entry.set(OWED);
        });
    }

    /// A new epoch: what was registered counts no more.
    pub fn owe_everyone(&self) {
        for part in &self.parts {
            for entry in part.lock().users.values_mut() {
                entry.clear(REGISTERED);
                entry.set(OWED);
            }
        }
    }

    /// Looks through one part for what is owed (at most `limit`) and who is gone since the last scan.
    pub fn scan(&self, part: usize, limit: usize) -> Scan {
        let mut scan = Scan::default();
        let mut part = self.parts[part].lock();
        let Part {
            users, removing, ..
        } = &mut *part;
        users.retain(|user, entry| {
            if entry.is(NOBODY) {
                if entry.is(GONE) {
                    *removing -= usize::from(entry.is(REMOVING));
                    scan.gone.push(entry.registration(user));
                    return false;
                }
                entry.set(GONE);
            } else if entry.is(OWED) && scan.owed.len() < limit {
                scan.owed.push(entry.registration(user));
            }
            true
        });
        scan
    }

    /// The registry did not say that these are removed: the next scan brings them up again. Those beyond
    /// [`limits::GONE_USERS`] stay in the registry until this epoch is swept; a router that meets them is answered
    /// `not_here`.
    pub fn keep_for_removal(&self, gone: &[Registration]) {
        for Registration { user, stamp } in gone {
            let mut part = self.part(user).lock();
            // Who is back is entered under a later stamp, which takes the place of this one.
            if part.removing < limits::GONE_USERS / PARTS && !part.users.contains_key(user) {
                part.removing += 1;
                let entry = Entry {
                    first: ConnId::default(),
                    stamp_and_flags: stamp | NOBODY | GONE | REMOVING,
                };
                part.users.insert(user.clone(), entry);
            }
        }
    }

    /// The connected users of one part whom the registry should hold.
    pub fn registered_in(&self, part: usize) -> Vec<Registration> {
        let part = self.parts[part].lock();
        part.users
            .iter()
            .filter(|(_, entry)| entry.is(REGISTERED) && !entry.is(NOBODY))
            .map(|(user, entry)| entry.registration(user))
            .collect()
    }

    /// Empties one part, for good: the process leaves.
    pub fn take(&self, part: usize) -> Vec<Registration> {
        let part = std::mem::take(&mut *self.parts[part].lock());
        part.users
            .iter()
            .map(|(user, entry)| entry.registration(user))
            .collect()
    }

    /// Every connection of one part.
    pub fn connections_in(&self, part: usize) -> Vec<ConnId> {
        let part = self.parts[part].lock();
        part.users
            .iter()
            .flat_map(|(user, entry)| part.connections(user, entry))
            .collect()
    }

    /// Every connection of one core.
    pub fn connections_on(&self, core: u16) -> Vec<ConnId> {
        let parts = (0..PARTS).flat_map(|part| self.connections_in(part));
        parts.filter(|conn| conn.core == core).collect()
    }

    /// Open connections.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Users with an entry: connected, or gone for less than the wait before removal.
    pub fn users(&self) -> usize {
        self.parts.iter().map(|part| part.lock().users.len()).sum()
    }

    /// Memory of the maps; the names are the connections'.
    pub fn held_bytes(&self) -> u64 {
        let of_part = |part: &Mutex<Part>| {
            let part = part.lock();
            let others = part
                .others
                .values()
                .map(|others| others.capacity() * size_of::<ConnId>());
            part.users.allocation_size() + part.others.allocation_size() + others.sum::<usize>()
        };
        self.parts.iter().map(of_part).sum::<usize>() as u64
    }

    /// Visits the entries whose life these registrations name; a stamp of an older life names none.
    fn each(
        &self,
        registrations: &[Registration],
        mut visit: impl FnMut(&UserId, &mut Entry, &ByUser<Vec<ConnId>>),
    ) {
        for Registration { user, stamp } in registrations {
            let mut part = self.part(user).lock();
            let Part { users, others, .. } = &mut *part;
            if let Some(entry) = users.get_mut(user)
                && entry.stamp() == *stamp
            {
                visit(user, entry, others);
            }
        }
    }

    fn part(&self, user: &UserId) -> &Mutex<Part> {
        // The map uses the low and the topmost bits; the middle ones are free.
        let hash = self.hasher.hash_one(user);
        &self.parts[(hash >> 32) as usize % PARTS]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conn(slot: u32) -> ConnId {
        ConnId {
            slot,
            core: 0,
            reuse: 0,
        }
    }

    fn user(text: &str) -> UserId {
        text.parse().unwrap()
    }

    #[test]
    fn the_first_connection_asks_for_a_registry_write_and_the_second_after_it_does_not() {
        let table = Table::default();
        let first = table.open(&user("a"), conn(1));
        assert!(!first.registered);
        assert_eq!(table.confirm(std::slice::from_ref(&first.registration)), []);
        let second = table.open(&user("a"), conn(2));
        assert!(second.registered);
        assert_eq!(second.registration, first.registration);
        assert_eq!(
            table.connections_of(&user("a")).as_slice(),
            [conn(1), conn(2)]
        );
        assert_eq!(table.connections(), 2);
    }

    #[test]
    fn who_could_not_be_removed_is_given_up_again_and_under_a_new_stamp_after_coming_back() {
        let table = Table::default();
        let old = table.open(&user("a"), conn(1)).registration;
        table.confirm(std::slice::from_ref(&old));
        table.close(&user("a"), conn(1));
        let keep = || {
            let mut gone = Vec::new();
            for part in 0..PARTS {
                let scan = table.scan(part, usize::MAX);
                table.keep_for_removal(&scan.gone);
                gone.extend(scan.gone);
            }
            gone
        };
        assert_eq!(keep(), []);
        assert_eq!(keep(), std::slice::from_ref(&old));
        assert_eq!(keep(), std::slice::from_ref(&old));
        let back = table.open(&user("a"), conn(2));
        assert!(!back.registered, "nobody knows whether it was removed");
        assert!(back.registration.stamp > old.stamp);
        assert_eq!(scan_all(&table).gone, []);
    }

    #[test]
    fn as_many_wait_for_their_removal_as_are_allowed() {
        let table = Table::default();
        for n in 0..limits::GONE_USERS * 2 {
            let gone = user(&n.to_string());
            table.open(&gone, conn(1));
            table.close(&gone, conn(1));
        }
        for _ in 0..3 {
            for part in 0..PARTS {
                let scan = table.scan(part, usize::MAX);
                table.keep_for_removal(&scan.gone);
            }
        }
        assert_eq!(table.users(), limits::GONE_USERS);
    }

    fn scan_all(table: &Table) -> Scan {
        let mut all = Scan::default();
        for part in 0..PARTS {
            let scan = table.scan(part, usize::MAX);
            all.owed.extend(scan.owed);
            all.gone.extend(scan.gone);
        }
        all
    }

    #[test]
    fn a_user_gone_over_two_scans_is_removed() {
        let table = Table::default();
        let registration = table.open(&user("a"), conn(1)).registration;
        table.close(&user("a"), conn(1));
        assert_eq!(scan_all(&table), Scan::default());
        assert_eq!(scan_all(&table).gone, [registration]);
        assert_eq!(table.users(), 0);
    }

    #[test]
    fn a_user_who_comes_back_before_the_removal_stays_registered() {
        let table = Table::default();
        let opened = table.open(&user("a"), conn(1));
        table.confirm(&[opened.registration]);
        table.close(&user("a"), conn(1));
        scan_all(&table);
        assert!(table.open(&user("a"), conn(2)).registered);
        table.close(&user("a"), conn(2));
        assert_eq!(scan_all(&table), Scan::default());
    }

    #[test]
    fn a_late_confirmation_of_an_older_life_does_not_count() {
        let table = Table::default();
        let old = table.open(&user("a"), conn(1)).registration;
        table.close(&user("a"), conn(1));
        scan_all(&table);
        scan_all(&table);
        let new = table.open(&user("a"), conn(2));
        assert!(new.registration.stamp > old.stamp);
        table.confirm(&[old]);
        assert!(!table.is_registered(&user("a")));
    }

    #[test]
    fn closing_a_connection_twice_or_an_unknown_one_changes_nothing() {
        let table = Table::default();
        table.open(&user("a"), conn(1));
        table.open(&user("a"), conn(2));
        for _ in 0..2 {
            table.close(&user("a"), conn(1));
        }
        table.close(&user("b"), conn(9));
        assert_eq!(table.connections(), 1);
    }

    #[test]
    fn whichever_device_leaves_first_the_others_stay() {
        for leaver in 1..=3 {
            let table = Table::default();
            let ada = user("a");
            for slot in 1..=3 {
                table.open(&ada, conn(slot));
            }
            table.close(&ada, conn(leaver));
            let mut left = table.connections_of(&ada);
            left.sort();
            let stayed: Vec<_> = (1..=3).filter(|slot| *slot != leaver).map(conn).collect();
            assert_eq!(left.as_slice(), stayed);
            for conn in stayed {
                table.close(&ada, conn);
            }
            assert_eq!(table.connections_of(&ada).as_slice(), []);
            assert_eq!(table.connections(), 0);
            table.open(&ada, conn(9));
            assert_eq!(table.connections_of(&ada).as_slice(), [conn(9)]);
        }
    }

    #[test]
    fn after_a_new_epoch_everyone_connected_is_to_be_registered_again() {
        let table = Table::default();
        for n in 0..100 {
            let opened = table.open(&user(&n.to_string()), conn(n));
            table.confirm(&[opened.registration]);
        }
        assert_eq!(scan_all(&table).owed.len(), 0);
        table.owe_everyone();
        let owed = scan_all(&table).owed;
        assert_eq!(owed.len(), 100);
        assert_eq!(table.confirm(&owed).len(), 100);
        assert_eq!(scan_all(&table).owed.len(), 0);
    }
}

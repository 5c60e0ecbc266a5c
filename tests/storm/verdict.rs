//! Balances the books: what was acknowledged is there, once and in order.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    time::Duration,
};

use fusewire::grpc::proto::{ListMessagesRequest, Message};
use tokio::time::{sleep, timeout};
use tonic::{Code, Status};

use super::{
    Shared,
    books::{Account, Answers},
    faults::Kind,
    timing::Calls,
    world::World,
};
use crate::support::{
    eventually::POLL,
    threads::{Threads, listing, user},
};

/// Far above what reading one thread takes, for a loaded machine.
const READ: Duration = Duration::from_mins(1);

/// What a storm came to.
#[derive(Debug)]
pub(crate) struct Verdict {
    pub(crate) answers: Answers,
    pub(crate) calls: BTreeMap<&'static str, Calls>,
    pub(crate) bound: Duration,
    pub(crate) faults: Vec<(Kind, Duration)>,
    pub(crate) threads: usize,
    pub(crate) messages: usize,
    pub(crate) lost: usize,
    pub(crate) duplicated: usize,
    pub(crate) trial_permits: usize,
    /// What each instance has in memory, in KiB.
    pub(crate) resident: [u64; 2],
    /// What must not have happened, the first of it.
    pub(crate) wrong: Vec<String>,
}

/// What the message of this id says.
pub(super) fn text(id: &str) -> String {
    format!("{id} weathers the storm")
}

pub(super) async fn balance(world: &World, shared: &Shared, faults: Vec<(Kind, Duration)>) -> Verdict {
    let clients = world.clients();
    let (mut messages, mut lost, mut duplicated) = (0, 0, 0);
    let accounts = shared.books.accounts();
    for (id, account) in &accounts {
        let mut seen = Vec::new();
        for threads in &clients.threads {
            match timeout(READ, read(threads, id)).await {
                Ok(Ok(read)) => seen.push(read),
                Ok(Err(status)) => shared.books.wrong(format!("{id}: cannot be read: {status:?}")),
                Err(_) => shared.books.wrong(format!("{id}: cannot be read within {READ:?}")),
            }
        }
        let [one, other] = &seen[..] else { continue };
        if one != other {
            shared.books.wrong(format!("{id}: the instances show different threads"));
        }
        let found = Found::of(one);
        messages += one.len();
        lost += found.lost(account).len();
        duplicated += found.twice.len();
        for what in found.judge(account) {
            shared.books.wrong(format!("{id}: {what}"));
        }
    }
    let (calls, bound) = (shared.timing.calls(), shared.timing.bound());
    for (kind, Calls { slowest, .. }) in &calls {
        if *slowest > bound {
            shared.books.wrong(format!("a call ({kind}) took {slowest:?}, more than {bound:?}"));
        }
    }
    Verdict {
        answers: shared.books.answers(),
        calls,
        bound,
        faults,
        threads: accounts.len(),
        messages,
        lost,
        duplicated,
        trial_permits: shared.leases.count(),
        resident: world.sides.each_ref().map(|side| side.service.resident()),
        wrong: shared.books.told(),
    }
}

/// All messages of a thread, from Redis; none where there is no thread.
async fn read(threads: &Threads, id: &str) -> Result<Vec<Message>, Status> {
    loop {
        let request = ListMessagesRequest { page_size: 1000, require_shared: true, ..listing(id) };
        match threads.walk(request).await {
            Err(status) if status.code() == Code::NotFound => return Ok(Vec::new()),
            // A busy machine passes for an outage now and then.
            Err(status) if status.code() == Code::Unavailable => sleep(POLL).await,
            outcome => return outcome,
        }
    }
}

/// A thread as it is in the end.
struct Found<'a> {
    messages: &'a [Message],
    places: HashMap<&'a str, usize>,
    twice: Vec<&'a str>,
}

impl<'a> Found<'a> {
    fn of(messages: &'a [Message]) -> Self {
        let mut places = HashMap::new();
        let mut twice = Vec::new();
        for (place, message) in messages.iter().enumerate() {
            if places.insert(message.id.as_str(), place).is_some() {
                twice.push(message.id.as_str());
            }
        }
        Self { messages, places, twice }
    }

    /// The acknowledged messages that are not there.
    fn lost<'b>(&self, account: &'b Account) -> Vec<&'b str> {
        let acknowledged = account.batches.iter().filter(|batch| batch.is_acknowledged);
        let ids = acknowledged.flat_map(|batch| &batch.ids).map(String::as_str);
        ids.filter(|id| !self.places.contains_key(id)).collect()
    }

    /// What is wrong with it.
    fn judge(&self, account: &Account) -> Vec<String> {
        let mut wrong = Vec::new();
        let lost = self.lost(account);
        if !lost.is_empty() {
            wrong.push(format!("{} messages are lost: {:?}", lost.len(), &lost[..lost.len().min(10)]));
        }
        if !self.twice.is_empty() {
            wrong.push(format!("these are there more than once: {:?}", self.twice));
        }
        let sent: HashSet<&str> =
            account.batches.iter().flat_map(|batch| &batch.ids).map(String::as_str).collect();
        for (place, message) in self.messages.iter().enumerate() {
            let Message { id, seq, parts, provisional, .. } = message;
            if !sent.contains(id.as_str()) {
                wrong.push(format!("nobody sent {id}"));
            }
            if *parts != user(id, &text(id)).parts || *provisional {
                wrong.push(format!("{id} is not what was sent: {message:?}"));
            }
            if usize::try_from(*seq) != Ok(place + 1) {
                wrong.push(format!("{id} stands at {seq} and not at {}", place + 1));
                break;
            }
        }
        wrong.extend(self.judge_batches(account));
        for (seq, (id, _)) in &account.seqs {
            let place = usize::try_from(seq - 1).expect("seqs are positive");
            let found = self.messages.get(place).map(|message| message.id.as_str());
            if found != Some(id) {
                wrong.push(format!("{id} was told to stand at {seq}, where {found:?} is"));
            }
        }
        wrong
    }

    /// Batches are there whole and in one piece or not at all, and the acknowledged ones of each writer in its order.
    fn judge_batches(&self, account: &Account) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut last_of: HashMap<usize, (usize, &str)> = HashMap::new();
        for batch in &account.batches {
            let places: Vec<usize> =
                batch.ids.iter().filter_map(|id| self.places.get(id.as_str()).copied()).collect();
            let (Some(first), Some(id)) = (places.first(), batch.ids.first()) else { continue };
            let is_one_piece = places.iter().copied().eq(*first..*first + batch.ids.len());
            if !is_one_piece {
                wrong.push(format!("the batch {:?} stands at {places:?}", batch.ids));
            }
            if !batch.is_acknowledged {
                continue;
            }
            if let Some((last, before)) = last_of.insert(batch.writer, (*first, id))
                && last > *first
            {
                wrong
                    .push(format!("{id} stands at {first}, before {before} at {last} that was sent earlier"));
            }
        }
        wrong
    }
}

impl Verdict {
    /// Fails a test where something went wrong.
    ///
    /// # Panics
    /// With all that went wrong, and the seed.
    pub(crate) fn assert(&self, seed: u64) {
        eprintln!("{self}");
        assert!(self.wrong.is_empty(), "seed {seed}:\n{}", self.wrong.join("\n"));
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Answers { shared, local, refused } = self.answers;
        writeln!(
            f,
            "writes acknowledged: {shared} SHARED, {local} LOCAL; answers that promise nothing: {refused}"
        )?;
        writeln!(
            f,
            "threads: {}; messages in them: {}; lost: {}; duplicated: {}; permits of trials: {}",
            self.threads, self.messages, self.lost, self.duplicated, self.trial_permits
        )?;
        let mut faults: BTreeMap<Kind, (u32, Duration)> = BTreeMap::new();
        for (kind, lasted) in &self.faults {
            let (count, total) = faults.entry(*kind).or_default();
            *count += 1;
            *total += *lasted;
        }
        for (kind, (count, total)) in faults {
            writeln!(f, "fault {kind:?}: {count} times, {:.1} s", total.as_secs_f64())?;
        }
        for (kind, Calls { count, slowest }) in &self.calls {
            writeln!(f, "calls {kind}: {count}, slowest {:.0} ms", slowest.as_secs_f64() * 1000.0)?;
        }
        let [one, other] = self.resident.map(|kib| kib / 1024);
        writeln!(f, "memory in use: {one} and {other} MiB")?;
        write!(f, "bound of a call: {:.0} ms", self.bound.as_secs_f64() * 1000.0)
    }
}

#[cfg(test)]
mod tests;

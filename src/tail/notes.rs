//! Where observations go that are to be durable soon: a sender that any part can hold. Nothing waits
//! for them; the journal writes the latest of each.

use tokio::sync::mpsc;

use crate::mirror::ledger::Note;

/// Notes it down. Cheap to clone. Unbounded: the receiver takes them in at once and keeps one of each
/// kind for each topic and partition.
#[derive(Clone, Debug)]
pub struct Notes {
    notes: mpsc::UnboundedSender<Note>,
}

impl Notes {
    /// A sender and where what it sends comes out.
    pub fn new() -> (Self, mpsc::UnboundedReceiver<Note>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self { notes: sender }, receiver)
    }

    /// Notes it down; never waits.
    pub fn note(&self, note: Note) {
        let _stopped = self.notes.send(note);
    }
}

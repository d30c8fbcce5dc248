//! Files of a run's folder that people and other processes look at while it goes on.
//!
//! Nobody waits for them: a run that does would spend a third of its own time per state on renaming files (seen on ext4,
//! which flushes what takes another file's place). A thread writes them, the latest content of each. What the run itself
//! depends on is not a view: its journal and its history are written before anything follows from them.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel},
};

/// Puts content into a file, whole or not at all.
type Put = fn(&Path, &[u8]) -> std::io::Result<()>;

enum Order {
    Show(PathBuf, Vec<u8>),
    Settle(SyncSender<()>),
}

/// The thread that writes the views of one folder; it ends with the last handle.
#[derive(Clone, Debug)]
pub struct Views {
    orders: Sender<Order>,
}

impl Views {
    /// Starts it.
    ///
    /// # Errors
    /// The process may have no further thread.
    pub fn start(put: Put) -> std::io::Result<Views> {
        let (orders, inbox) = channel();
        std::thread::Builder::new().name("views".to_owned()).spawn(move || write(inbox, put))?;
        Ok(Views { orders })
    }

    /// Has a file written soon; gives the content back if an earlier one could not be written.
    pub fn show(&self, file: PathBuf, body: Vec<u8>) -> Result<(), Vec<u8>> {
        self.orders.send(Order::Show(file, body)).map_err(|refused| match refused.0 {
            Order::Show(_, body) => body,
            Order::Settle(_) => Vec::new(),
        })
    }

    /// Returns when everything that was shown is written, or cannot be.
    pub fn settle(&self) {
        let (done, settled) = sync_channel(1);
        if self.orders.send(Order::Settle(done)).is_ok() {
            // An error means that the thread ended at a file that could not be written.
            let _ = settled.recv();
        }
    }
}

/// Ends at the first file that cannot be written: whoever shows the next one meets the error himself.
fn write(inbox: Receiver<Order>, put: Put) {
    while let Ok(first) = inbox.recv() {
        let mut latest = BTreeMap::new();
        let mut waiting = Vec::new();
        for order in std::iter::once(first).chain(inbox.try_iter()) {
            match order {
                Order::Show(file, body) => drop(latest.insert(file, body)),
                Order::Settle(done) => waiting.push(done),
            }
        }
        if latest.iter().any(|(file, body)| put(file, body).is_err()) {
            // Nothing more is taken before those who wait are let go: the next one to show something must meet the end.
            drop(inbox);
            return;
        }
        for done in waiting {
            // Whoever waits may have gone away.
            let _ = done.send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(file: &Path, body: &[u8]) -> std::io::Result<()> {
        std::fs::write(file, body)
    }

    #[test]
    fn what_was_shown_last_is_there_once_settled() {
        let folder = tempfile::tempdir().unwrap();
        let views = Views::start(put).unwrap();
        for number in 0..100 {
            views.show(folder.path().join("a"), format!("{number}").into_bytes()).unwrap();
            views.show(folder.path().join("b"), format!("{}", number * 2).into_bytes()).unwrap();
        }
        views.settle();
        assert_eq!(std::fs::read_to_string(folder.path().join("a")).unwrap(), "99");
        assert_eq!(std::fs::read_to_string(folder.path().join("b")).unwrap(), "198");
    }

    #[test]
    fn a_file_that_cannot_be_written_is_given_back_to_whoever_shows_the_next_one() {
        let folder = tempfile::tempdir().unwrap();
        let views = Views::start(put).unwrap();
        views.show(folder.path().join("nowhere/a"), b"lost".to_vec()).unwrap();
        views.settle();
        assert_eq!(views.show(folder.path().join("b"), b"kept".to_vec()), Err(b"kept".to_vec()));
    }
}

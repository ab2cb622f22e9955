//! The log start of a copy: it follows the source's, and only once every in-sync replica has what
//! comes after it, so that no replica is empty for a moment.

use crate::types::Offset;

/// Where the source's log starts, as far as we know and as far as it was followed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SourceStart {
    /// What the source said last.
    newest: Option<Offset>,
    /// Followed next. While the high watermark is below it the source may say more, and a copy that
    /// is always behind must follow something.
    next: Option<Offset>,
}

impl SourceStart {
    /// The source said where its log starts; it never goes back.
    pub(super) fn hear(&mut self, offset: Offset) {
        self.newest = self.newest.max(Some(offset));
        self.next = self.next.or(self.newest);
    }

    /// What the source said last.
    pub(super) fn newest(&self) -> Option<Offset> {
        self.newest
    }

    /// Where the copy's log may start now that it is readable up to `high_watermark`.
    pub(super) fn follow(&mut self, log_start: Offset, high_watermark: Offset) -> Offset {
        let reached = |offset: &Offset| *offset <= high_watermark;
        if self.newest.as_ref().is_some_and(reached) {
            self.next = self.newest;
        }
        let Some(next) = self.next.filter(reached) else { return log_start };
        self.next = self.newest;
        log_start.max(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_followed_once_the_copy_has_reached_it() {
        let mut start = SourceStart::default();
        assert_eq!(start.follow(Offset(5), Offset(50)), Offset(5), "nothing heard");
        start.hear(Offset(90));
        assert_eq!(start.follow(Offset(5), Offset(50)), Offset(5), "not as far as that");
        assert_eq!(start.follow(Offset(5), Offset(90)), Offset(90));
        start.hear(Offset(70));
        assert_eq!(start.follow(Offset(90), Offset(95)), Offset(90), "never back");
        assert_eq!(start.follow(Offset(99), Offset(99)), Offset(99), "nor below the copy's own");
    }

    #[test]
    fn a_copy_that_is_always_behind_follows_too() {
        let mut start = SourceStart::default();
        let mut log_start = Offset(0);
        for step in 1..10 {
            start.hear(Offset(step * 100));
            log_start = start.follow(log_start, Offset(step * 100 - 60));
        }
        assert_eq!(log_start, Offset(800));
    }
}

//! Every call that the suite makes to AWS.

//! What somebody probably meant: a refusal that names the right word saves a look into a manual at night.

/// The known name that differs in the fewest letters from a wrong one, if it is close.
pub fn nearest<'a>(wrong: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known.map(|name| (distance(wrong, name), name)).min().filter(|(d, _)| *d <= 3).map(|(_, name)| name)
}

/// Letters to change, add, remove or swap with their neighbour, to get from one word to the other.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(rows[i - 2][j - 2] + 1);
            }
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_found_by_letters() {
        let known = || ["us-east-1", "us-west-2", "eu-west-1"].into_iter();
        assert_eq!(nearest("us-wset-2", known()), Some("us-west-2"));
        assert_eq!(nearest("us-esat-1", known()), Some("us-east-1"));
        assert_eq!(nearest("zz-nowhere-9", known()), None);
    }
}

//! A table as plain data, and as Markdown between the markers of a document.

/// A table of texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    /// Title.
    pub(crate) title: String,
    /// The names of its columns.
    pub(crate) head: Vec<String>,
    /// One cell for each column.
    pub(crate) rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub(crate) fn new<C: Into<String>>(title: &str, head: impl IntoIterator<Item = C>) -> Self {
        let head = head.into_iter().map(Into::into).collect();
        Self {
            title: title.to_owned(),
            head,
            rows: Vec::new(),
        }
    }

    /// Adds a row.
    pub(crate) fn push(&mut self, row: impl IntoIterator<Item = String>) {
        let row: Vec<String> = row.into_iter().collect();
        debug_assert_eq!(row.len(), self.head.len(), "{}: {row:?}", self.title);
        self.rows.push(row);
    }

    /// The table under its title.
    pub(crate) fn markdown(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let rule = format!("|{}\n", "---|".repeat(self.head.len()));
        let rows: String = self.rows.iter().map(|row| line(row)).collect();
        format!("### {}\n\n{}{rule}{rows}", self.title, line(&self.head))
    }
}

/// Part of a document between its markers, without empty lines around it.
#[cfg(test)]
pub(crate) fn marked(document: &str) -> Option<&str> {
    let (_, rest) = document.split_once("<!-- table: begin -->\n")?;
    let (inside, _) = rest.split_once("<!-- table: end -->")?;
    Some(inside.trim_matches('\n'))
}

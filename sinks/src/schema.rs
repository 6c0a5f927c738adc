//! The schema version of the database, and whether this program can work with it.

use sqlx::PgPool;

use crate::postgres::MIGRATIONS;

/// The schema of a database, compared with what this program was built for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Schema {
    /// They fit.
    Current,
    /// Migrations are missing, or one did not finish: `freshet setup` applies them.
    Older {
        /// The last migration that was applied; 0 for none.
        found: i64,
        /// The last migration of this program.
        wanted: i64,
    },
    /// A newer program has migrated it: this program does not know the new schema.
    Newer {
        /// The last migration that was applied.
        found: i64,
        /// The last migration of this program.
        wanted: i64,
    },
    /// The sessions search another schema than the settings say.
    Elsewhere {
        /// The schema that they search first.
        looked_into: String,
    },
    /// freshet's tables are in another schema than the settings say.
    SetUpElsewhere {
        /// Where `_sqlx_migrations` is.
        found: String,
    },
}

/// Compares the last migrations.
///
/// | applied | this program's | schema |
/// |---|---|---|
/// | none | 1, 2 | older |
/// | 1 | 1, 2 | older |
/// | 1, 2 | 1, 2 | current |
/// | 1, 2 (not ended) | 1, 2 | older |
/// | 1, 2, 3 | 1, 2 | newer |
fn compare(applied: &[(i64, bool)], known: &[i64]) -> Schema {
    let wanted = known.iter().copied().max().unwrap_or(0);
    let found = applied.iter().filter(|(_, ended)| *ended).map(|(version, _)| *version).max().unwrap_or(0);
    if applied.iter().any(|(version, _)| *version > wanted) {
        let found = applied.iter().map(|(version, _)| *version).max().unwrap_or(0);
        return Schema::Newer { found, wanted };
    }
    match known.iter().all(|version| applied.contains(&(*version, true))) {
        true => Schema::Current,
        false => Schema::Older { found, wanted },
    }
}

/// Reads which migrations the database has had. `schema` is that of the domains' tables in the settings. A database
/// without freshet's tables counts as older.
///
/// # Errors
/// If Postgres does not answer.
pub async fn read(pool: &PgPool, schema: &str) -> Result<Schema, sqlx::Error> {
    let looked_into: Option<String> = sqlx::query_scalar("SELECT current_schema()::text").fetch_one(pool).await?;
    if let Some(looked_into) = looked_into.filter(|looked_into| looked_into != schema) {
        return Ok(Schema::Elsewhere { looked_into });
    }
    if let Some(found) = set_up_elsewhere(pool, schema).await? {
        return Ok(Schema::SetUpElsewhere { found });
    }
    let known: Vec<i64> = MIGRATIONS.iter().map(|migration| migration.version).collect();
    let migrated: bool =
        sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL").fetch_one(pool).await?;
    let applied = match migrated {
        true => sqlx::query_as("SELECT version, success FROM _sqlx_migrations").fetch_all(pool).await?,
        false => Vec::new(),
    };
    Ok(compare(&applied, &known))
}

/// The schema with the migration records of a database that has been set up, if it is not this schema.
async fn set_up_elsewhere(pool: &PgPool, schema: &str) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT min(n.nspname::text) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relname = '_sqlx_migrations' AND to_regclass('pipeline.objects') IS NOT NULL
         HAVING NOT bool_or(n.nspname = $1)",
    )
    .bind(schema)
    .fetch_optional(pool)
    .await
    .map(Option::flatten)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_works_with_its_own_schema_only() {
        let cases = [
            (&[][..], Schema::Older { found: 0, wanted: 2 }),
            (&[(1, true)], Schema::Older { found: 1, wanted: 2 }),
            (&[(1, true), (2, true)], Schema::Current),
            (&[(1, true), (2, false)], Schema::Older { found: 1, wanted: 2 }),
            (&[(1, true), (2, true), (3, true)], Schema::Newer { found: 3, wanted: 2 }),
            (&[(1, true), (2, true), (3, false)], Schema::Newer { found: 3, wanted: 2 }),
        ];
        for (applied, expected) in cases {
            assert_eq!(compare(applied, &[1, 2]), expected, "{applied:?}");
        }
    }
}

-- What members did after ($sign 1) or before ($sign -1) their first $start between $since0 and $until0, as steps
-- from one level to the next: repeats of the same kind count once, the commonest kinds of a level stand for
-- themselves, and a path that ends has NULL as its target.
WITH stream AS MATERIALIZED ({stream}),
starts AS (
    SELECT member_id, min(t) AS t0
    FROM stream
    WHERE kind = $start AND t >= $since0 AND t < $until0
    GROUP BY member_id
),
walked AS (
    SELECT member_id, $start AS kind, CAST(0 AS BIGINT) AS away FROM starts
    UNION ALL
    SELECT s.member_id, e.kind, $sign * (e.t - s.t0) AS away
    FROM starts AS s
    JOIN stream AS e ON e.member_id = s.member_id
    WHERE $sign * (e.t - s.t0) > 0 AND $sign * (e.t - s.t0) <= $window_us AND list_contains($shown, e.kind)
),
-- Of events at the same instant the order is by name: some order that never changes.
changes AS (
    SELECT member_id, kind, away
    FROM walked
    QUALIFY kind IS DISTINCT FROM lag(kind) OVER (PARTITION BY member_id ORDER BY away, kind)
),
levels AS (
    SELECT member_id, kind, row_number() OVER (PARTITION BY member_id ORDER BY away, kind) - 1 AS level
    FROM changes
    QUALIFY level <= $depth
),
common AS (
    SELECT level, kind
    FROM levels
    GROUP BY level, kind
    QUALIFY row_number() OVER (PARTITION BY level ORDER BY count(*) DESC, kind) <= $most
),
steps AS (
    SELECT
        l.level,
        CASE WHEN c.kind IS NULL THEN $other ELSE l.kind END AS source,
        lead(CASE WHEN c.kind IS NULL THEN $other ELSE l.kind END)
            OVER (PARTITION BY l.member_id ORDER BY l.level) AS target
    FROM levels AS l
    LEFT JOIN common AS c ON c.level = l.level AND c.kind = l.kind
)
SELECT level, source, target, count(*) AS members, CAST(NULL AS BIGINT) AS still_open
FROM steps
WHERE level < $depth
GROUP BY level, source, target
UNION ALL
SELECT -1, NULL, NULL, count(*), count(*) FILTER (WHERE t0 + $window_us >= $as_of) FROM starts
ORDER BY 1, 4 DESC, 2, 3

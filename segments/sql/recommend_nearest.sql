-- Every product's nearest: who bought both, over who bought either. Each pair is counted once (a < b)
-- and written both ways.
WITH kept AS (
    SELECT b.source, b.member_id, b.sku
    FROM bought AS b
    SEMI JOIN popular AS p ON p.source = b.source AND p.sku = b.sku AND p.buyers >= $support
),
pairs AS (
    SELECT a.source, a.sku AS one, b.sku AS two, count(*) AS together
    FROM kept AS a
    JOIN kept AS b ON b.source = a.source AND b.member_id = a.member_id AND a.sku < b.sku
    GROUP BY a.source, a.sku, b.sku
    HAVING count(*) >= $support
),
both_ways AS (
    SELECT source, one AS sku, two AS other, together FROM pairs
    UNION ALL
    SELECT source, two, one, together FROM pairs
),
everybody AS (SELECT source, count(DISTINCT member_id) AS members FROM bought GROUP BY source)
SELECT
    w.source, w.sku, w.other, w.together,
    w.together / sqrt(a.buyers * b.buyers) AS similarity,
    w.together * CAST(e.members AS DOUBLE) / (a.buyers * b.buyers) AS lift
FROM both_ways AS w
JOIN popular AS a ON a.source = w.source AND a.sku = w.sku
JOIN popular AS b ON b.source = w.source AND b.sku = w.other
JOIN everybody AS e ON e.source = w.source
QUALIFY row_number() OVER (PARTITION BY w.source, w.sku ORDER BY similarity DESC, w.other) <= $neighbours

-- One row a member: measures, scores, names, stage. A score is 1 plus the number of cut points
-- exceeded (recency reversed), so equal values score alike and row order never matters.
-- Everybody is in it who was there as of the date: registered before it, or bought before it.
WITH scored AS (
    SELECT
        *,
        CAST(5 - CAST(recency > $r1 AS TINYINT) - CAST(recency > $r2 AS TINYINT) - CAST(recency > $r3 AS TINYINT) - CAST(recency > $r4 AS TINYINT) AS TINYINT) AS r,
        CAST(1 + CAST(frequency > $f1 AS TINYINT) + CAST(frequency > $f2 AS TINYINT) + CAST(frequency > $f3 AS TINYINT) + CAST(frequency > $f4 AS TINYINT) AS TINYINT) AS f,
        CAST(1 + CAST(monetary > $m1 AS TINYINT) + CAST(monetary > $m2 AS TINYINT) + CAST(monetary > $m3 AS TINYINT) + CAST(monetary > $m4 AS TINYINT) AS TINYINT) AS m
    FROM measures
),
staged AS (
    SELECT
        p.member_id, s.recency, s.frequency, s.monetary, s.r, s.f, s.m, c.segment AS rfm_segment,
        CASE WHEN s.recency IS NULL THEN NULL ELSE
            CASE WHEN s.monetary > $mean_monetary THEN 'important_' ELSE 'general_' END
            || CASE
                WHEN s.recency < $mean_recency AND s.frequency > $mean_frequency THEN 'value'
                WHEN s.recency < $mean_recency THEN 'develop'
                WHEN s.frequency > $mean_frequency THEN 'keep'
                ELSE 'win_back' END
        END AS value_segment,
        coalesce(s.orders, 0) AS orders,
        make_timestamptz(s.first_at) AS first_order_at,
        make_timestamptz(s.last_at) AS last_order_at,
        {stage} AS stage
    FROM (SELECT member_id, epoch_us(registered_at) AS registered_at FROM members) AS p
    LEFT JOIN scored AS s ON s.member_id = p.member_id
    LEFT JOIN silent AS q ON q.member_id = p.member_id
    LEFT JOIN cells AS c ON c.r = s.r AND c.f = s.f
    WHERE p.registered_at IS NULL OR p.registered_at < $as_of OR s.member_id IS NOT NULL
)
SELECT
    t.member_id, t.recency, t.frequency, t.monetary, t.r, t.f, t.m, t.rfm_segment, t.value_segment,
    t.orders, t.first_order_at, t.last_order_at, t.stage,
    CASE WHEN b.stage = t.stage THEN b.stage_since ELSE $as_of_day END AS stage_since,
    b.stage AS previous_stage
FROM staged AS t
LEFT JOIN previous AS b ON b.member_id = t.member_id

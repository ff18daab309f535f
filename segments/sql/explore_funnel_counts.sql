-- Members by how far they got, in all (place NULL) and by the value of a field: the $most commonest values
-- among those who did the first step, then the others together (place 0), then those without one (place -1).
, valued AS (
    SELECT r.*, {value} AS value
    FROM members_reached AS r
    {joins}
),
common AS (
    SELECT value, row_number() OVER (ORDER BY count(*) DESC, value) AS place
    FROM valued
    WHERE value IS NOT NULL
    GROUP BY value
    QUALIFY place <= $most
),
placed AS (
    SELECT v.*, CASE WHEN v.value IS NULL THEN -1 ELSE coalesce(c.place, 0) END AS place, c.value AS shown
    FROM valued AS v
    LEFT JOIN common AS c ON c.value = v.value
)
SELECT
    CASE WHEN grouping(place) = 1 THEN NULL ELSE place END AS place,
    any_value(shown) AS value,
    [count(*), count(t2), count(t3), count(t4), count(t5), count(t6)] AS members,
    [median(t2 - t1), median(t3 - t2), median(t4 - t3), median(t5 - t4), median(t6 - t5)] AS gaps,
    median(CASE $steps WHEN 2 THEN t2 WHEN 3 THEN t3 WHEN 4 THEN t4 WHEN 5 THEN t5 ELSE t6 END - t1) AS whole,
    count(*) FILTER (WHERE level < $steps AND last_t1 + $window_us >= $as_of) AS still_open
FROM placed
GROUP BY GROUPING SETS ((), (place))

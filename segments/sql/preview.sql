-- Members by what they are and what they would be: at most a few thousand combinations.
SELECT
    t.stage AS stage_before, n.stage AS stage_after,
    t.rfm_segment AS rfm_before, n.rfm_segment AS rfm_after,
    t.value_segment AS value_before, n.value_segment AS value_after,
    count(*) AS members
FROM ({snapshot}) AS n
FULL JOIN today AS t ON t.member_id = n.member_id
GROUP BY ALL

-- One row a member who did the first step: how far they got, and when they did each step.
-- Every first step between $since and $first_until is an attempt; each later step is the earliest event of its
-- kind strictly after the step before, found by one ordered join a step, so that a member with thousands of
-- events costs no product of them. Of several attempts the one that got furthest counts, then the earliest.
-- A step that the funnel does not have is NULL and matches nothing.
WITH stream AS MATERIALIZED ({stream}),
attempts AS (
    SELECT
        s1.member_id, s1.t AS t1,
        CASE WHEN s2.t - s1.t <= $window_us THEN s2.t END AS t2,
        CASE WHEN s3.t - s1.t <= $window_us THEN s3.t END AS t3,
        CASE WHEN s4.t - s1.t <= $window_us THEN s4.t END AS t4,
        CASE WHEN s5.t - s1.t <= $window_us THEN s5.t END AS t5,
        CASE WHEN s6.t - s1.t <= $window_us THEN s6.t END AS t6
    FROM (SELECT DISTINCT member_id, t FROM stream WHERE kind = $step1 AND t < $first_until) AS s1
    ASOF LEFT JOIN (SELECT member_id, t FROM stream WHERE kind = $step2) AS s2
        ON s2.member_id = s1.member_id AND s1.t < s2.t
    ASOF LEFT JOIN (SELECT member_id, t FROM stream WHERE kind = $step3) AS s3
        ON s3.member_id = s1.member_id AND s2.t < s3.t
    ASOF LEFT JOIN (SELECT member_id, t FROM stream WHERE kind = $step4) AS s4
        ON s4.member_id = s1.member_id AND s3.t < s4.t
    ASOF LEFT JOIN (SELECT member_id, t FROM stream WHERE kind = $step5) AS s5
        ON s5.member_id = s1.member_id AND s4.t < s5.t
    ASOF LEFT JOIN (SELECT member_id, t FROM stream WHERE kind = $step6) AS s6
        ON s6.member_id = s1.member_id AND s5.t < s6.t
),
reached AS (
    SELECT
        *,
        CAST(1 + CAST(t2 IS NOT NULL AS TINYINT) + CAST(t3 IS NOT NULL AS TINYINT) + CAST(t4 IS NOT NULL AS TINYINT)
            + CAST(t5 IS NOT NULL AS TINYINT) + CAST(t6 IS NOT NULL AS TINYINT) AS TINYINT) AS level,
        max(t1) OVER (PARTITION BY member_id) AS last_t1
    FROM attempts
),
members_reached AS (
    SELECT *
    FROM reached
    QUALIFY row_number() OVER (PARTITION BY member_id ORDER BY level DESC, t1) = 1
)

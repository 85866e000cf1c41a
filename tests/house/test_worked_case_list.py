"""Every worked case of the published methods, with the tests that have it, or why there is none.

The cases were computed independently of this code, in two lists. A test copies the numbers of its case; here are the
names, so that none is forgotten: a test that is renamed, or that goes away, is missed here.
"""

import re
from pathlib import Path

import pytest

FIRST = """
A1 A2 A3 A4 A5 A6 A7 B1 B2 B3 B4 B5 C1 C2 C3 C4 C5 C6 C7 C8 C9 C10 C11 D1 D2 E1 E2 F1 F2 F3 G1 G2 H1 H2 I1 I2 I3 J1 J2
J3 J4 K1 K2 L M1 M2 M3 M4 N1 N2 N3 N4 N5 N6 N7 N8 O1 O2 O3 O4 O5 O6 O7 O9 P1 P2 Q1 Q2 Q3 Q4 Q5 Q6 Q7 Q8 Q9 Q10 Q11 Q12
Q13 Q14 Q15 Q16 Q17 Q18 Q19 vectors
"""
SECOND = """
S1 S1b S3 S4 S5 S6 S7 S8 S9 S10 S11 S12 S13 S14 S16 O1 O1b O2 O2b O2c O3 O3b O4 O5 O6 O7 O8 O9 O10 O11 O12 O12b O13 O13b
O14 O15 O16 O17 O18 O19 O20 O21 O22 R1 R2 R3 R4 R4b R4c R5 R6 R7 R8 R9 R10 R11 R11b R12 R13 R14 R16
"""

OF_FIRST = {
    "test_shares_are_those_of_the_worked_case": "A1 A2 A3 A4 A5 C9 G1 Q1",
    "test_a6_equal_clusters_lose_nothing": "A6",
    "test_a7_fewer_documents_than_clusters_are_all_spent": "A7",
    "test_published_weights_are_those_of_the_paper_and_of_its_code": "B1 B2 B4 B5",
    "test_b3_half_as_surprising_answers_save_a_half": "B3",
    "test_q18_a_token_counts_once_whatever_batch_it_is_in": "Q18",
    "test_the_orders_are_put_together_as_published": "C2",
    "test_segments_count_by_their_length": "C4",
    "test_c5_kmeans_quality_draws_with_the_exact_probabilities": "C5 Q8",
    "test_c6_scores_are_standardised_with_ddof_0": "C6",
    "test_c7_noise_is_gumbel_and_scores_are_divided_by_the_temperature": "C7",
    "test_q16_and_c8_tokens_in_rank_order": "C8 Q16",
    "test_c10_without_noise_quality_alone_decides": "C10",
    "test_c11_noise_is_on_the_side_of_the_largest_weight": "C11",
    "test_e1_the_larger_half_of_the_differences_of_losses": "E1",
    "test_e2_the_difference_ranks_otherwise_than_the_ratio": "E2",
    "test_g1_targets_of_tasks_that_are_absent_go_to_the_others": "G1",
    "test_g2_only_what_the_student_misses_by_enough_is_taken": "G2",
    "test_h1_shares_move_by_stated_factors": "H1",
    "test_an_expected_score_from_logits": "I1",
    "test_i3_diverse_keeps_what_is_not_too_like_a_better_one": "I3",
    "test_k1_the_two_rules_tell_a_chain_apart": "K1",
    "test_s12_d4_is_a_budget_over_what_is_left": "K2",
    "test_l_and_s14_the_level_is_the_largest_that_is_paid_for": "L",
    "test_m1_what_covers_most_is_taken_first": "M1",
    "test_m2_k_center_from_the_first_document": "M2",
    "test_m3_quality_counts_beside_what_is_covered": "M3",
    "test_q19_repetition_is_capped_and_the_rest_goes_to_the_others": "N2 Q19",
    "test_n4_a_source_is_visited_whole_before_some_of_it_once_more": "N4",
    "test_n6_a_document_that_was_given_already_costs_the_query_its_turn": "N6",
    "test_n7_ifd_is_kept_below_one": "N7",
    "test_the_token_prior_is_that_of_the_published_case": "N8",
    "test_shapes_are_those_of_the_worked_cases": "O1 O2 O3 O4 O5 O6",
    "test_o7_ties_are_in_the_order_of_their_ids": "O7",
    "test_o9_a_better_score_can_be_less_likely_where_scores_are_standardised_anew": "O9",
    "test_p2_the_objective_is_the_sum_of_squared_correlations": "P2",
    "test_q2_rounds_are_those_of_the_worked_case": "Q2",
    "test_q3_the_published_cut_of_fineweb_edu_is_above_two_and_a_half": "Q3",
    "test_lloyd_of_the_worked_case_ends_after_two_steps": "Q5",
    "test_q14_and_q15_scores_of_bradley_and_terry": "Q14 Q15",
    "test_11_1_orders_are_those_of_the_worked_case": "vectors",
    "test_d1_and_d2_the_rules_of_instruct_mining": "D1 D2",
    "test_f1_a_checkpoint_weighs_as_much_as_its_learning_rate": "F1",
    "test_f2_adams_direction_has_its_small_number_inside_the_root": "F2",
    "test_f3_the_mean_within_a_subtask_and_the_largest_over_subtasks": "F3",
    "test_j1_and_j2_buckets_and_counts": "J1 J2",
    "test_j3_and_j4_weights_are_those_of_the_worked_case": "J3 J4",
    "test_q7_products_of_projections_have_the_mean_and_the_deviation_that_they_should": "Q7",
    "test_q11_the_next_document_adds_most_to_the_volume": "Q11",
    "test_q12_the_next_document_is_good_and_unlike_those_taken": "Q12",
    "test_q13_inversions_and_tau": "Q13",
    "test_scores_are_combined_as_the_policy_says": "P1",
    "test_the_entropy_of_equal_shares_is_one_and_an_interval_is_students": "Q9",
    "test_the_probabilities_that_are_told_are_exact": "Q17",
}
OF_SECOND = {
    "test_s1_weights_grow_with_the_shrunk_signal_and_forget_no_cluster": "S1 S1b",
    "test_s3_the_next_document_is_the_one_that_correlates_least": "S3",
    "test_s4_a_temperature_brings_shares_nearer_to_each_other": "S4",
    "test_s4_and_s5_weights_are_those_of_the_worked_cases": "S5",
    "test_s6_the_default_decay_is_that_of_the_fitted_law": "S6",
    "test_s7_the_most_valuable_visits_are_taken": "S7",
    "test_s8_a_strict_set_is_repeated_beside_a_loose_one": "S8",
    "test_s9_two_forms_match_a_reference_as_well_as_can_be": "S9",
    "test_s10_the_closest_and_the_farthest_of_every_cluster": "S10",
    "test_two_partitions_agree_as_in_the_worked_case": "S11",
    "test_s12_d4_is_a_budget_over_what_is_left": "S12",
    "test_s13_queries_take_turns_and_then_tasks_do": "S13",
    "test_l_and_s14_the_level_is_the_largest_that_is_paid_for": "S14",
    "test_s16_documents_are_drawn_with_the_exact_probabilities": "S16",
    "test_o1_the_curriculum_designers_score": "O1 O1b",
    "test_o2_steps_are_as_large_as_in_the_worked_cases": "O2",
    "test_o2b_a_document_weighs_less_for_one_step": "O2b",
    "test_o2c_two_draws_have_the_exact_inclusion_probabilities": "O2c",
    "test_o3_limits_rise_as_deepspeeds": "O3",
    "test_o3b_a_pool_is_within_the_limit_of_every_score": "O3b",
    "test_o4_competence_grows_with_the_root_of_what_was_seen": "O4",
    "test_o5_levels_are_finished_one_by_one_with_the_subjects_in_turn": "O5",
    "test_o6_objectives_come_in_the_given_order_and_difficulty_rises_in_each": "O6",
    "test_o7_pools_of_phases_grow_or_are_replaced": "O7",
    "test_o8_the_share_of_hard_documents_rises_from_round_to_round": "O8",
    "test_o9_the_share_of_preferred_documents_rises_like_an_s": "O9",
    "test_o10_pointwise_weights_are_released_over_the_epochs": "O10",
    "test_o11_documents_that_improved_most_weigh_least": "O11",
    "test_o12_probabilities_are_ensembled_over_time": "O12",
    "test_o12b_the_gradient_of_the_regulariser": "O12b",
    "test_o13_the_least_moving_order_is_found": "O13",
    "test_o13b_the_rule_says_whether_the_rest_can_be_laid": "O13b",
    "test_o14_a_gap_that_is_not_possible_is_kept_as_far_as_it_is_and_said": "O14",
    "test_o15_a_share_has_its_places_wherever_the_documents_stood": "O15",
    "test_o16_a_topic_comes_before_its_children_and_siblings_stand_together": "O16",
    "test_o17_a_circle_counts_as_one_and_difficulty_decides_between_those_whose_turn_it_is": "O17",
    "test_o19_gumbel_noise_moves_ranks": "O19",
    "test_o20_a_warm_up_is_a_sample_in_order_or_the_beginning_and_the_rest_is_shuffled": "O20",
    "test_o22_clients_come_in_the_order_of_their_mean_loss_and_documents_by_difficulty": "O22",
    "test_r1_readability_by_its_counts": "R1",
    "test_the_compression_ratio_is_that_of_zlib": "R2",
    "test_mtld_is_what_lexicalrichness_says": "R3",
    "test_r5_the_pass_rate_of_rollouts_and_what_it_is_worth": "R5",
    "test_r6_confidence_variability_and_correctness": "R6",
    "test_bradley_terry_follows_confidences": "R7",
    "test_the_orders_are_put_together_as_published": "R8",
    "test_o18_measures_of_a_folded_order": "O18",
    "test_o21_the_mean_of_checkpoints_has_the_coefficients_of_the_worked_case": "O21",
    "test_r4_difficulties_and_abilities_are_those_of_the_worked_case": "R4",
    "test_r4b_the_information_of_an_answer": "R4b",
    "test_r4c_an_item_that_all_or_none_got_right_has_a_state": "R4c",
    "test_r9_what_a_learner_knows_of_a_concept_now": "R9",
    "test_r10_prerequisites_and_depths_from_documents_that_have_both": "R10",
    "test_a_quantile_is_the_mid_rank_in_the_sample": "R11",
    "test_the_mean_rank_is_that_of_the_worked_case": "R11b",
    "test_r12_the_mean_cosine_to_the_nearest_others": "R12",
    "test_r13_skills_are_counted_once_whatever_their_case": "R13",
    "test_windows_count_every_token_once_with_what_the_width_allows_before_it": "R14",
    "test_gopher_quality_keeps_what_its_paper_keeps": "R16",
}
UNTESTED = {
    "C1": "the loss of QuRating's training is that of whoever trains such a model",
    "C3": "and so is its mask",
    "H2": "tokens of a training plan, which a policy writes as budgets and phases",
    "I2": "a document is rated as a whole, and not turn by turn",
    "M4": "`num_clusters: auto` compares distances to centroids (the simplified silhouette): this is the mean over all "
    "pairs, whose number is the square of the documents'",
    "N1": "the weights of DoReMi come from training a proxy model, which a policy then writes as `mixture.weights`",
    "N3": "the concordance of PreSelect is of the losses of many models, and is no rater here",
    "N5": "the published pooling of RDS+ weighs hidden states by position; vectors are those of the policy's `embed`",
    "Q4": "packing into sequences is the trainer's",
    "Q6": "merging clusters below a distance, as CLIMB does, is no way to cluster here: `cluster.levels` is",
    "Q10": "what a finished choice gains against a target is measured in training; DSIR's weights are J3 and J4",
}


def _tests() -> set[str]:
    """The names of all tests of the project."""
    files = Path(__file__).parent.parent.rglob("test_*.py")
    return {name for path in files for name in re.findall(r"^def (test_\w+)", path.read_text("utf-8"), re.MULTILINE)}


@pytest.mark.parametrize(
    ("cases", "by_test", "untested"), [(FIRST, OF_FIRST, UNTESTED), (SECOND, OF_SECOND, {})], ids=["first", "second"]
)
def test_every_worked_case_has_a_test_or_a_reason(
    cases: str, by_test: dict[str, str], untested: dict[str, str]
) -> None:
    known = {name: by_test[name].split() for name in by_test}
    assert known.keys() <= _tests(), "a test has another name now"
    tested = {case for of_test in known.values() for case in of_test}
    assert tested | untested.keys() == set(cases.split()) and not tested & untested.keys()
